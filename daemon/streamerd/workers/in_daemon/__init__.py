"""The daemon's side of the workers: starts them, and gives them jobs and descriptors."""
