"""The worker's side: what runs in a fetch process, and in the process that starts those."""
