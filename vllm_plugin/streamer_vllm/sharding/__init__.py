"""Checkpoints with one shard a rank: names of files, the writer, and the note of their purpose.

The loader reads `pattern.py` and `made_for.py`, too; the rest runs in `streamerctl shard`.
"""
