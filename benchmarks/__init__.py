"""Measurements of what things cost: never asserted, and never compared across machines or runs."""
