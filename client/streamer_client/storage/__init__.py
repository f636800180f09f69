"""Sources of checkpoints: one contract, one module or folder per kind of source. No torch."""
