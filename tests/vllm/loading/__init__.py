"""The harness that only loads: every kind of model, in real groups of ranks, without an engine."""
