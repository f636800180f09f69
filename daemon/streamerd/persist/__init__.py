"""Lets the cache outlive a daemon: writes sidecars, and adopts the slabs that they describe."""
