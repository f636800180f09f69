"""Learns the members of the fleet from an existing engine: etcd or DNS.

The name of a member is the address at which other nodes ask it for blocks. `source_of` chooses the
engine, and the thread in `book.py` keeps asking it. This runs in the fleet's process, so that a
library that hangs or crashes harms neither the daemon nor a load.
"""
