"""The daemon's settings: their table, and their values from flags, variables and the file."""
