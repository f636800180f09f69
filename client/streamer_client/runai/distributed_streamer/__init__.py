"""Reading ranges of files in every rank, under the names of Run:ai's modules."""

from __future__ import annotations

from streamer_client.runai.distributed_streamer.distributed_streamer import DistributedStreamer

__all__ = ["DistributedStreamer"]
