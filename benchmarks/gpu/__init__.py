"""The benchmark of a GPU in one command: build, tests, then every workload, in under 9 minutes.

python -m benchmarks.gpu --out DIR

Without a GPU the same code runs dry, on tiny sizes: no figure of such a run means anything, but that it ended well does.
"""
