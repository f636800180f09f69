"""Copying blocks into tensors' memory: jobs, engines, destinations and the pinned ring."""
