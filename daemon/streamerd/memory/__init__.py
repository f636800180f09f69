"""Finds out how much memory there is for slabs, and checks a memory limit against it."""
