"""The node daemon: reads each checkpoint byte once, holds it in shared memory, leases it to ranks."""

__version__ = "0.1.0"
