"""The node daemon: reads each checkpoint byte once, into shared memory, and leases it to ranks."""

__version__ = "0.1.0"
