"""What outlives a daemon: sidecars' use and the adoption of slabs that it left."""
