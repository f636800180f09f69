"""Which engine copies to which devices."""

from __future__ import annotations

from collections.abc import Collection

import torch

from streamer_client.copy.copy_engine import CopyEngine, HostEngine, MixedEngine, StagedEngine
from streamer_client.copy.feed import Feed
from streamer_client.copy.gather import GatherEngine, HostGather
from streamer_client.copy.ring.engine import cuda_engine


def engine_for(devices: Collection[torch.device], feed: Feed) -> CopyEngine:
    """The engine for destinations on these devices.

    One CUDA device has a ring; several of one process, or other kinds, are staged.
    """
    others = {device for device in devices if device.type != "cpu"}
    if not others:
        return HostEngine(feed.threads)
    if len(others) == 1 and (device := next(iter(others))).type == "cuda":
        return MixedEngine(cuda_engine(device, feed))
    return MixedEngine(StagedEngine(feed.threads))


def gather_engine_for(device: torch.device, feed: Feed) -> GatherEngine | None:
    """The engine that gathers slices on a device; None for a kind of device that has none."""
    if device.type == "cuda":
        return cuda_engine(device, feed)
    return HostGather(feed.threads) if device.type == "cpu" else None
