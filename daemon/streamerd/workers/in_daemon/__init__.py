"""The daemon's side: starts workers, gives them jobs, and hands them descriptors. In its loop."""
