"""Decides which node reads which block from which other node. Pure: no I/O, clock or chance.

`ranking` puts the nodes into an order for each block. `search` decides how this node gets one
block: it is told what happened and says whom to ask next. `standing` holds what a node has learned
of its peers. `uploads` decides what a peer that asks is answered. The callers of this package own
sockets and time.
"""
