"""Real vLLM on CPU: the same tokens, log-probabilities and parameters as with its own loaders."""
