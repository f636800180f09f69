"""Fetch workers: the processes that touch checkpoint bytes, and their supervisor."""
