"""What compilers make of the GPU kernels, without a GPU: ``python -m tools.aot``."""
