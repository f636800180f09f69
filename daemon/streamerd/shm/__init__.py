"""Slabs and sidecars as files: made, backed, punched, removed. Knows no limits and no clients."""
