"""Run:ai's `DistributedStreamer`: the same reading for every rank of a node.

Run:ai divides the reading among ranks and broadcasts it. Here the daemon has already read each byte
once, so each rank reads for itself and no process group is touched. With RUNAI_STREAMER_DIST=1 the
ranks still end together: an error in one is an error in all. One thread at a time in each rank uses
it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

import torch
import torch.distributed as dist

from streamer_client.contract.errors import ConfigError, SourceError
from streamer_client.runai.failures import as_runtime_error
from streamer_client.runai.file_streamer.file_streamer import Chunk, FileStreamer
from streamer_client.runai.file_streamer.requests_iterator import (
    RUNAI_STREAMER_MEMORY_LIMIT_ENV_VAR_NAME,
    FileChunks,
)
from streamer_client.runai.s3_utils.s3_utils import S3Credentials
from streamer_client.runai.settings import integer_variable

__all__ = [
    "DEFAULT_BROADCAST_TIMEOUT",
    "RUNAI_STREAMER_CUDA_ALIGNMENT_ENV_VAR",
    "RUNAI_STREAMER_MEMORY_LIMIT_ENV_VAR_NAME",
    "DistributedStreamer",
]

RUNAI_STREAMER_CUDA_ALIGNMENT_ENV_VAR: Final = "RUNAI_STREAMER_CUDA_ALIGNMENT"
"""Run:ai's variable for the alignment of broadcasts; it may be set and has no effect here."""
DIST_ENV: Final = "RUNAI_STREAMER_DIST"
DIST_TIMEOUT_ENV: Final = "RUNAI_STREAMER_DIST_TIMEOUT"
DEFAULT_BROADCAST_TIMEOUT: Final = timedelta(seconds=600)
_MAX_TIMEOUT_S: Final = 1_000_000_000
"""Some thirty years; torch counts a timeout in nanoseconds or milliseconds of 64 bits."""


def ends_together(environ: Mapping[str, str]) -> bool:
    """Whether ranks that stream the same files are to fail together.

    Raises:
        ConfigError: the variable has a value that Run:ai does not know.
    """
    told = environ.get(DIST_ENV, "") or "auto"
    if told not in ("0", "1", "auto"):
        raise ConfigError(f"{DIST_ENV} is {told!r}; it is one of 0, 1, auto")
    return told == "1"


def broadcast_timeout(environ: Mapping[str, str]) -> timedelta:
    """How long ranks wait for each other at the end of a stream.

    Raises:
        ConfigError: RUNAI_STREAMER_DIST_TIMEOUT is no number of seconds that torch can wait.
    """
    seconds = integer_variable(environ, DIST_TIMEOUT_ENV)
    if not seconds:
        return DEFAULT_BROADCAST_TIMEOUT
    if not 0 < seconds <= _MAX_TIMEOUT_S:
        raise ConfigError(
            f"{DIST_TIMEOUT_ENV} is {seconds}; it is a number of seconds from 1 to {_MAX_TIMEOUT_S}"
        )
    return timedelta(seconds=seconds)


class RankGroup:
    """The ranks of torch's default process group, over gloo connections of their own.

    Each rank has one, and calls `use` and `together` at the same places of the program.
    """

    def __init__(self) -> None:
        self._used = False
        self._group: dist.ProcessGroup | None = None

    def use(self, used: bool) -> None:
        """Decide whether the ranks end together from now on; connects them the first time.

        Raises:
            ConfigError: RUNAI_STREAMER_DIST_TIMEOUT is no number of seconds.
        """
        self._used = used
        if used and self._group is None:
            timeout = broadcast_timeout(os.environ)
            self._group = dist.new_group(backend="gloo", timeout=timeout)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make the actions inside succeed in all ranks, or raise in all.

        Raises:
            RuntimeError: another rank failed, is gone or late; also a StreamerError if it failed.
        """
        if not self._used:
            yield
            return
        try:
            yield
        except Exception:
            self._any_failed(failed=True)
            raise
        if self._any_failed(failed=False):
            with as_runtime_error():
                raise SourceError("another rank could not read what it asked for; its log says why")

    def _any_failed(self, *, failed: bool) -> bool:
        flag = torch.tensor([int(failed)])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag.item())

    def close(self) -> None:
        """Close the connections; ranks that still wait for this one fail. Idempotent."""
        group, self._group, self._used = self._group, None, False
        if group is not None:
            dist.destroy_process_group(group)


class DistributedStreamer:
    """Reads ranges of files; every rank gets all of them."""

    def __init__(self) -> None:
        self.file_streamer = FileStreamer()
        self.is_distributed = False
        """Whether the ranks of the present stream fail together."""
        self.ranks: Final = RankGroup()

    def __enter__(self) -> Self:
        self.file_streamer.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.ranks.close()
        self.file_streamer.__exit__(exc_type, exc_value, traceback)

    def get_group_size(self) -> int:
        """The number of ranks in torch's default process group; 1 without one."""
        if not dist.is_available() or not dist.is_initialized():
            return 1
        return dist.get_world_size()

    def get_cuda_free_memory(self) -> int:
        """Free bytes of the present CUDA device; 0 without one."""
        return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0

    def set_is_distributed(self, is_distributed: bool, device: str) -> None:
        """Decide whether the ranks of the next stream fail together; each reads all of it anyway.

        Raises:
            ConfigError: RUNAI_STREAMER_DIST has an unknown value.
        """
        del device
        wanted = is_distributed and self.get_group_size() > 1
        self.is_distributed = wanted and ends_together(os.environ)
        self.ranks.use(self.is_distributed)

    def stream_files(
        self,
        file_stream_requests: list[FileChunks],
        credentials: S3Credentials | None,
        device: str,
        is_distributed: bool,
        owned: bool = True,
    ) -> None:
        """Begin to read, as `FileStreamer.stream_files` does."""
        self.set_is_distributed(is_distributed, device)
        self.file_streamer.stream_files(file_stream_requests, credentials, device, owned=owned)

    def ring_info(self) -> tuple[int, int, int] | None:
        """None: there is no ring of buffers that tensors must be copied out of."""
        return None

    def get_chunks(self) -> Iterator[Chunk]:
        """Yield ranges as `FileStreamer.get_chunks` does; ranks may fail together."""
        with self.ranks.together():
            yield from self.file_streamer.get_chunks()
