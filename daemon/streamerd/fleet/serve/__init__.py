"""Serves other nodes the blocks that this node's daemon has in memory, by ranged GETs.

This package runs in the fleet's process, with a thread for each connection. It decides nothing
about memory: it asks the daemon for each block, and the answer brings a read-only descriptor of the
slab.
"""
