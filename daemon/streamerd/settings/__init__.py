"""The table of settings, and reading them from flags, environment and file."""
