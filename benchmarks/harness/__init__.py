"""What all benchmarks share, on any device: workloads, contenders, the check of results, the race, memory and tables."""
