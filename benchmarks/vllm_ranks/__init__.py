"""vLLM's own loaders in tensor-parallel ranks, without an engine: seconds, copies, and bits."""
