"""Copying blocks into tensors' memory: the plan, the threads, engines and the pinned ring."""
