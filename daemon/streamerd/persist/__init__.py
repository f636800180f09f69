"""What outlives a daemon: writing sidecars, and adopting the slabs that they describe."""
