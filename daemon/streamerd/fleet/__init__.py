"""Other nodes: a fleet reads each block from the store about once, and passes it from node to node.

Nothing of this is imported where the setting `fleet` is empty. `plan/` decides and does no I/O.
"""
