"""Copying blocks into the memory of tensors: the plan, the threads, engines and the pinned ring."""
