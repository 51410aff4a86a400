"""``python -m benchmarks.launching``: what a GPU step costs its host, from the room of the GPU."""

import sys

from benchmarks.gpu.launching import main

if __name__ == "__main__":
    sys.exit(main())
