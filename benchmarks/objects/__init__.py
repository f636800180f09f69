"""`python -m benchmarks.objects`: streamerd and other readers of object stores, side by side."""
