"""Reading ranges of any files, with Run:ai's `FileStreamer` interface.

Owns what a call means; which daemon or storage answers is left to the session, how ranges are read
to `ranges.py`. Used by one thread at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self

import torch

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.uris import scheme_of
from streamer_client.runai.chunks import FileChunks
from streamer_client.runai.credentials import S3Credentials
from streamer_client.runai.failures import as_value_error
from streamer_client.runai.listing import list_files
from streamer_client.runai.ranges import Range, Reading, byte_range, check_ranges
from streamer_client.runai.session import Session

_NOT_OPEN: Final = "the streamer is not open; use it as `with FileStreamer() as streamer:`"

Chunk = tuple[int, int, torch.Tensor]
"""The file's id, the range's place in it, and its bytes as `uint8` of shape `(1, size)`."""


class RunaiStreamerInvalidInputException(ConfigError):
    """What was asked for cannot be streamed as it is."""


class FileStreamer:
    """Reads ranges of files. A context manager: leaving it ends the reading.

    Tensors that were handed out stay valid, and nothing else writes to their memory.
    """

    def __init__(self) -> None:
        self._session = Session()
        self._entered = False
        self._reading: Reading | None = None
        self._owners: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered = False
        self._end()
        self._session.close()

    def list_files(
        self,
        prefix: str,
        is_recursive: bool = True,
        allow_patterns: list[str] | None = None,
        ignore_patterns: list[str] | None = None,
    ) -> list[tuple[str, int]]:
        """Paths or URIs under `prefix`, with their sizes in bytes; also outside the context.

        Args:
            prefix: a directory or an object-store prefix.
            is_recursive: at any depth, or directly under `prefix` only.
            allow_patterns: globs on whole paths; keep what any of them takes.
            ignore_patterns: globs on whole paths; drop what any of them takes.

        Raises:
            ValueError: it cannot be listed; also a StreamerError.
        """
        with as_value_error():
            found = list_files(
                prefix,
                None,
                recursive=is_recursive,
                allow=allow_patterns,
                ignore=ignore_patterns,
            )
            return [(shard.uri, shard.size_bytes) for shard in found]

    def stream_files(
        self,
        file_stream_requests: list[FileChunks],
        credentials: S3Credentials | None = None,
        device: str | None = "cpu",
        memory_limit: int | None = None,
        owned: bool = True,
    ) -> None:
        """Begin to read ranges; `get_chunks` hands them out. Ends what was being read before.

        Args:
            file_stream_requests: all of one kind of source.
            credentials: win over the environment.
            device: where the bytes are wanted; None is the CPU.
            memory_limit: bytes to hold at once, in place of the environment's; see `Client.open`.
            owned: accepted; each tensor is its caller's own either way.

        Raises:
            ValueError: files cannot be read or lack a range; also a StreamerError.
        """
        del owned
        if not self._entered:
            raise ConfigError(_NOT_OPEN)
        self._end()
        place = usable_device(device)
        paths = [os.fspath(request.path) for request in file_stream_requests]
        unique = list(dict.fromkeys(paths))
        check_one_kind(unique)
        if not unique:
            return
        with as_value_error():
            feed = self._session.open(
                unique, credentials, hold=False, memory_limit_bytes=memory_limit
            )
            shard_of = {path: shard for shard, path in enumerate(unique)}
            ranges = self._plan(file_stream_requests, [shard_of[path] for path in paths])
            self._reading = Reading(feed, ranges, place)
            check_ranges(feed.shards, ranges)

    def _plan(self, requests: Sequence[FileChunks], shards: Sequence[int]) -> list[Range]:
        ranges = []
        for request, shard in zip(requests, shards, strict=True):
            for place, (start, size) in enumerate(zip(request.offsets, request.sizes, strict=True)):
                ranges.append(byte_range(shard, start, size))
                self._owners.append((request.id, place))
        return ranges

    def get_chunks(self) -> Iterator[Chunk]:
        """What `stream_files` asked for: every range once, in the order of the files.

        Raises:
            ValueError: a file could not be read, or the streamer is not open.
        """
        if not self._entered:
            raise ConfigError(_NOT_OPEN)
        if self._reading is None:
            return
        owners = self._owners
        with as_value_error():
            for index, tensor in self._reading.once():
                yield (*owners[index], tensor)
                del tensor  # the caller alone decides how long it lives

    def _end(self) -> None:
        reading, self._reading, self._owners = self._reading, None, []
        if reading is not None:
            reading.close()


def usable_device(device: Any) -> torch.device:
    """The device as torch knows it; None is the CPU.

    Raises:
        RunaiStreamerInvalidInputException: torch knows no such device.
    """
    if device is None:
        return torch.device("cpu")
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise RunaiStreamerInvalidInputException(
            f"device {device!r} is unknown to torch ({error}); write cpu or cuda:N"
        ) from error


def check_one_kind(paths: Sequence[str]) -> None:
    """Check that all paths are files, or all objects of one kind of store.

    Raises:
        RunaiStreamerInvalidInputException: naming the two kinds.
    """
    kinds = sorted({scheme_of(path) for path in paths})
    if len(kinds) > 1:
        named = " and ".join(f"{kind}://" if kind else "plain paths" for kind in kinds)
        raise RunaiStreamerInvalidInputException(
            f"files of {named} were asked for in one call; stream each kind in a call of its own"
        )
