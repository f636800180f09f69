"""The agreements between daemon, client and plugin: no torch, no zmq, no I/O."""
