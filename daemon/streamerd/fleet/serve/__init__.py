"""Other nodes' questions: what this node's daemon has in memory, by ranged GETs.

Runs in the fleet's process, a thread for each connection. Decides nothing about memory: for each
block the daemon is asked, whose answer brings a read-only descriptor of the slab.
"""
