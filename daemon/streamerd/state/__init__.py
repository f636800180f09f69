"""All decisions of the daemon, and nothing else: events in, commands out.

Does no I/O, reads no clock, logs nothing. `service/` carries the commands out.
"""
