"""Who reads what from whom: pure decisions, without I/O, clock or chance.

`ranking` puts the nodes into an order for each block. `search` is the way of one wanted block: it
is told what happened and says whom to ask next. `standing` is what a node has learned of its peers,
and `uploads` decides what a peer that asks is answered. Whoever carries this out owns sockets and
time.
"""
