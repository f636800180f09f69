"""Reading ranges of any files, with Run:ai's `FileStreamer` interface.

Owns the meaning of each call, and which call raises an error. `session.py` chooses the daemon or
storage, and `ranges.py` reads. One thread at a time uses it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self

import torch

from streamer_client.contract.errors import ConfigError, SourceError
from streamer_client.contract.uris import is_remote, scheme_of
from streamer_client.runai.failures import as_value_error
from streamer_client.runai.file_streamer.requests_iterator import FileChunks, check_memory_limit
from streamer_client.runai.listing import list_files
from streamer_client.runai.ranges import Range, RangeStream, byte_range, check_ranges
from streamer_client.runai.s3_utils.s3_utils import S3Credentials
from streamer_client.runai.session import Session
from streamer_client.runai.settings import memory_limit as told_memory_limit

_NOT_OPEN: Final = "the streamer is not open; use it as `with FileStreamer() as streamer:`"
_MAX_OFFSET: Final = 1 << 64

Chunk = tuple[int, int, torch.Tensor]
"""The file's id, the range's place in it, and its bytes as `uint8` of shape `(1, size)`."""


class RunaiStreamerInvalidInputException(ConfigError):
    """The requested ranges cannot be streamed as they are."""


class FileStreamer:
    """Reads ranges of files. A context manager: leaving it ends the reading.

    Tensors that were handed out stay valid, and nobody else writes to their memory.
    """

    def __init__(self) -> None:
        self.session: Final = Session()
        self._entered = False
        self._stream: RangeStream | None = None
        self._owners: list[tuple[int, int]] = []
        self._empty: list[Chunk] = []
        self._failure: SourceError | None = None

    def __enter__(self) -> Self:
        self.session.enter()
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
        self.session.close()

    def list_files(
        self,
        prefix: str,
        is_recursive: bool = True,
        allow_patterns: list[str] | None = None,
        ignore_patterns: list[str] | None = None,
    ) -> list[tuple[str, int]]:
        """Paths or URIs under `prefix`, with sizes in bytes; callable outside the context.

        Args:
            prefix: a directory or an object-store prefix.
            is_recursive: whether to list at any depth, or only directly under `prefix`.
            allow_patterns: globs on whole paths; only matches are kept. An empty list keeps all, as
                in Run:ai's streamer.
            ignore_patterns: globs on whole paths; matches are dropped.

        Raises:
            ValueError: the files cannot be listed; also a StreamerError.
        """
        with as_value_error():
            return list_files(
                prefix, recursive=is_recursive, allow=allow_patterns, ignore=ignore_patterns
            )

    def stream_files(
        self,
        file_stream_requests: list[FileChunks],
        credentials: S3Credentials | None = None,
        device: str | None = "cpu",
        memory_limit: int | None = None,
        owned: bool = True,
    ) -> None:
        """Begin to read ranges, which `get_chunks` hands out, and end any earlier reading.

        A file that cannot be read, or that ends before a range does, is an error of `get_chunks`.

        Args:
            file_stream_requests: the files and ranges, all of one kind of source.
            credentials: used in place of the environment's.
            device: device that the bytes are wanted on; None for the CPU.
            memory_limit: bytes to hold at once, in place of the environment's limit; see
                `Client.open`.
            owned: accepted without effect; each tensor is always its caller's own.

        Raises:
            ValueError: a device, an offset or a limit is impossible; also a StreamerError.
        """
        del owned
        if not self._entered:
            raise ConfigError(_NOT_OPEN)
        self._end()
        place = usable_device(device)
        requests = [(os.fspath(request.path), request) for request in file_stream_requests]
        check_one_kind([path for path, _ in requests])
        limit, origin = told_memory_limit(os.environ, memory_limit)
        for path, request in requests:
            _check_offsets(path, request)
            check_memory_limit(limit, max(request.sizes, default=0), origin)
        with as_value_error():
            try:
                self._open(requests, credentials, place, limit)
            except SourceError as error:
                self._failure = error

    def _open(
        self,
        requests: Sequence[tuple[str, FileChunks]],
        credentials: S3Credentials | None,
        device: torch.device,
        limit: int,
    ) -> None:
        # Run:ai asks a store only for bytes, so an object of which no byte is wanted may be
        # missing.
        files = list(
            dict.fromkeys(
                path for path, request in requests if not is_remote(path) or any(request.sizes)
            )
        )
        shard_of = {path: shard for shard, path in enumerate(files)}
        ranges = self._plan(requests, shard_of, device)
        if not files:
            return
        feed = self.session.open(files, credentials, hold=False, memory_limit_bytes=limit)
        self._stream = RangeStream(feed, ranges, device)
        check_ranges(feed.shards, ranges)

    def _plan(
        self,
        requests: Sequence[tuple[str, FileChunks]],
        shard_of: dict[str, int],
        device: torch.device,
    ) -> list[Range]:
        ranges: list[Range] = []
        places: Counter[int] = Counter()  # requests that share an id continue its count
        for path, request in requests:
            for start, size in zip(request.offsets, request.sizes, strict=True):
                owner = (request.id, places[request.id])
                places[request.id] += 1
                if size:
                    ranges.append(byte_range(shard_of[path], start, size))
                    self._owners.append(owner)
                else:
                    nothing = torch.empty((1, 0), dtype=torch.uint8, device=device)
                    self._empty.append((*owner, nothing))
        return ranges

    def get_chunks(self) -> Iterator[Chunk]:
        """The ranges of `stream_files`: every range once, empty ones first, in file order.

        Raises:
            ValueError: a file could not be read or lacks a range, or the streamer is not open.
        """
        if not self._entered:
            raise ConfigError(_NOT_OPEN)
        owners = self._owners
        with as_value_error():
            if self._failure is not None:
                raise self._failure
            empty, self._empty = self._empty, []
            yield from empty
            if self._stream is None:
                return
            for index, tensor in self._stream.once():
                yield (*owners[index], tensor)
                del tensor  # only the caller decides how long it lives

    def _end(self) -> None:
        stream, self._stream, self._owners = self._stream, None, []
        self._empty, self._failure = [], None
        if stream is not None:
            stream.close()


def _check_offsets(path: str, request: FileChunks) -> None:
    for start, size in zip(request.offsets, request.sizes, strict=True):
        if min(start, size) < 0 or start + size > _MAX_OFFSET:
            raise RunaiStreamerInvalidInputException(
                f"{path}: {size} bytes from {start} were asked for; both must be from 0 to 2^64"
            )


def usable_device(device: Any) -> torch.device:
    """The device as torch knows it; None means the CPU.

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


def host_or_device(device: Any) -> str:
    """The device's name as torch writes it; None means the CPU. Raises as `usable_device` does."""
    return str(usable_device(device))


def homogeneous_paths(paths: Sequence[str]) -> bool:
    """Whether all paths are files, or all objects of one kind of store."""
    return len({scheme_of(path) for path in paths}) < 2


def check_one_kind(paths: Sequence[str]) -> None:
    """Check that all paths are files, or all objects of one kind of store.

    Raises:
        RunaiStreamerInvalidInputException: there are two kinds; the text names both.
    """
    kinds = sorted({scheme_of(path) for path in paths})
    if len(kinds) > 1:
        named = " and ".join(f"{kind}://" if kind else "plain paths" for kind in kinds)
        raise RunaiStreamerInvalidInputException(
            f"files of {named} were asked for in one call; stream each kind in a call of its own"
        )
