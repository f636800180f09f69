"""How much memory there is for slabs, and whether a memory limit fits it."""
