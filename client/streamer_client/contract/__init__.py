"""What daemon, client and plugin agree on: no torch, no zmq, no I/O."""
