"""Where checkpoints come from: one contract, one module per kind of source. No torch."""
