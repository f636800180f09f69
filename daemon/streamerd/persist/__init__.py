"""The cache over the daemon's restarts: writing sidecars, and adopting what they tell of."""
