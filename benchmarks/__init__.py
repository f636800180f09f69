"""Benchmarks: against peers in one run, and of the core alone. They never assert a time."""
