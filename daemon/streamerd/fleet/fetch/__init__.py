"""Blocks from other nodes: a reader behind storage's contract, in the threads of a fetch worker."""
