"""The worker's side: the programs of a fetch worker, and of the process that starts workers."""
