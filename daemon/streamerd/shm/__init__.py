"""Shared-memory slabs: create, reserve, punch, remove. Knows nothing of budgets or clients."""
