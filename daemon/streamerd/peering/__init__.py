"""The daemon's part in a fleet, and the process beside it that serves other nodes.

`process.py` runs the server and asks who is in the fleet; `beside.py` starts it, again
where it ends;`lookups.py` answers what it asks. Imported only where a fleet is configured.
"""
