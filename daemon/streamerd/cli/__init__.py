"""streamerctl: each command is one request to the daemon and its answer, or a watch."""
