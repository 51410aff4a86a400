"""Benchmarks of vitsom_fast: ``pytest benchmarks/ --benchmark-only``."""
