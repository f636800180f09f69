"""The daemon's settings: their table, and how flags, variables and the file give their values."""
