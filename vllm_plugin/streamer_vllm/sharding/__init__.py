"""Checkpoints with one shard a rank: how files are named, who writes them, what they were made for.

`pattern.py` and `made_for.py` are read by the loader too; the rest runs in `streamerctl shard`.
"""
