"""Triton kernels, one operation a file; installed as ``vitsom_fast.kernels``."""
