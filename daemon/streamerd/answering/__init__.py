"""What the daemon does with each request of a client."""
