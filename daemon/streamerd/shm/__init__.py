"""Makes, backs, punches and removes slabs and sidecars as files. Knows no limits or clients."""
