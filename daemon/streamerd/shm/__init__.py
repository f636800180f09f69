"""Shared-memory slabs: create, back, punch, remove. Knows nothing of limits or clients."""
