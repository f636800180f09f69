"""Run:ai's `DistributedStreamer`: the same reading for every rank of a node.

Run:ai divides the reading among ranks and broadcasts it. Here the daemon has read each byte once
already, so each rank takes what it asks for and no process group is needed or touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

import torch

from streamer_client.runai.file_streamer.file_streamer import Chunk, FileStreamer
from streamer_client.runai.file_streamer.requests_iterator import FileChunks
from streamer_client.runai.s3_utils.s3_utils import S3Credentials


class DistributedStreamer:
    """Reads ranges of files; every rank gets all of them."""

    def __init__(self) -> None:
        self.file_streamer = FileStreamer()
        self.is_distributed = False

    def __enter__(self) -> Self:
        self.file_streamer.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.file_streamer.__exit__(exc_type, exc_value, traceback)

    def get_group_size(self) -> int:
        """Ranks of torch's default process group; 1 without one."""
        distributed = torch.distributed
        if not distributed.is_available() or not distributed.is_initialized():
            return 1
        return distributed.get_world_size()

    def get_cuda_free_memory(self) -> int:
        """Free bytes of the present CUDA device; 0 without one."""
        return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0

    def set_is_distributed(self, is_distributed: bool, device: str) -> None:
        """Accepted; no rank reads for another, so `is_distributed` stays False."""
        del is_distributed, device

    def stream_files(
        self,
        file_stream_requests: list[FileChunks],
        credentials: S3Credentials | None,
        device: str,
        is_distributed: bool,
        owned: bool = True,
    ) -> None:
        """Begin to read; as `FileStreamer.stream_files`."""
        self.set_is_distributed(is_distributed, device)
        self.file_streamer.stream_files(file_stream_requests, credentials, device, owned=owned)

    def ring_info(self) -> tuple[int, int, int] | None:
        """None: there is no ring of buffers that tensors would have to be copied out of."""
        return None

    def get_chunks(self) -> Iterator[Chunk]:
        """What was asked for; as `FileStreamer.get_chunks`."""
        yield from self.file_streamer.get_chunks()
