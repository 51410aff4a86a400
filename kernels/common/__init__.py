"""What kernels of several rooms call."""
