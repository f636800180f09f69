"""All decisions of the daemon, and nothing else: events in, commands out.

Does no I/O, reads no clock, logs nothing. `service.py` carries the commands out.
"""
