"""All decisions of the daemon, and nothing else: events in, commands out.

The core does no I/O, reads no clock and logs nothing. `service/` carries the commands out.
"""
