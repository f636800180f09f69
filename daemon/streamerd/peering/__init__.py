"""The daemon's part in a fleet, and the process beside it that serves other nodes.

`process.py` runs the server and learns the members of the fleet. `beside.py` starts that process,
and starts it again when it ends. `lookups.py` answers its questions. This package is imported only
if a fleet is configured.
"""
