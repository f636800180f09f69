"""Other nodes: a fleet reads each block from the store about once, and passes it from node to node.

No module of this package is imported if the setting `fleet` is empty. `plan/` decides and does no
I/O.
no I/O.
"""
