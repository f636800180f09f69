"""Streaming safetensors files with Run:ai's `SafetensorsStreamer`, and mirroring models.

Owns which tensors of which files are wanted, and which call raises an error; `ranges.py` reads.
Other projects' tests replace `pull_files` in this module and expect `ObjectStorageModel` to call
theirs. So that class is here, while `model_directory.py` lets processes take turns. One thread at a
time uses it.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from types import TracebackType
from typing import Final, Literal, Self

import torch

from streamer_client.contract.errors import ConfigError, SourceError
from streamer_client.contract.safetensors.catalog import ShardCatalog
from streamer_client.contract.uris import scheme_of
from streamer_client.copy.feed import Feed, Route
from streamer_client.runai.distributed_streamer.distributed_streamer import DistributedStreamer
from streamer_client.runai.failures import as_value_error
from streamer_client.runai.file_streamer.file_streamer import check_one_kind, usable_device
from streamer_client.runai.file_streamer.requests_iterator import check_memory_limit
from streamer_client.runai.listing import SAFETENSORS_PATTERN, list_safetensors
from streamer_client.runai.model_directory import SENTINEL_NAME, ModelDirectory
from streamer_client.runai.pulling import pull_files
from streamer_client.runai.ranges import Range, RangeStream
from streamer_client.runai.s3_utils.s3_utils import S3Credentials
from streamer_client.runai.safetensors_streamer.safetensors_pytorch import (
    SafetensorMetadata,
    catalogs_of,
    metadata_of,
)
from streamer_client.runai.settings import memory_limit as told_memory_limit
from streamer_client.storage.registry import object_store_schemes

__all__ = [
    "SAFETENSORS_PATTERN",
    "ObjectStorageModel",
    "SafetensorsStreamer",
    "list_safetensors",
    "pull_files",
]

logger = logging.getLogger(__name__)

_NOT_OPEN: Final = "the streamer is not open; use it as `with SafetensorsStreamer() as streamer:`"


class ObjectStorageModel:
    """A model's files in an object store, mirrored to a directory.

    A context manager. The first process brings the files; others wait for it and find them there.
    The directory counts as complete when the block is left without error; otherwise the next
    process begins anew.

    Args:
        model_path: prefix of the model.
        dst: the directory; see `ModelDirectory` for those that are refused.
        s3_credentials: used in place of the environment's.

    Raises:
        ValueError: `model_path` is in no object store, or `dst` cannot be this model's own
            directory; also a StreamerError.
    """

    SENTINEL_NAME: Final = SENTINEL_NAME

    def __init__(
        self, model_path: str, dst: str, s3_credentials: S3Credentials | None = None
    ) -> None:
        schemes = object_store_schemes()
        if scheme_of(model_path) not in schemes:
            raise ConfigError(
                f"{model_path!r} is in no object store; write {', '.join(schemes)}://..., "
                "or use a local directory as it is"
            )
        self._model_path = model_path if model_path.endswith("/") else f"{model_path}/"
        self._credentials = s3_credentials
        self._directory = ModelDirectory(model_path, os.fspath(dst))
        self.dir = self._directory.path
        self._skip = self._directory.is_complete

    def pull_files(
        self,
        allow_pattern: list[str] | None = None,
        ignore_pattern: list[str] | None = None,
    ) -> None:
        """Copy files, as the function `pull_files` does, unless the directory is complete."""
        if not self._skip:
            pull_files(self._model_path, self.dir, allow_pattern, ignore_pattern, self._credentials)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> Literal[False]:
        try:
            if exc_type is None and not self._skip:
                self._directory.finish()
        finally:
            self._directory.release()
        return False

    def __del__(self) -> None:
        if "_directory" in self.__dict__:
            self._directory.release()


class SafetensorsStreamer:
    """Streams tensors from safetensors files. A context manager: leaving it ends the reading.

    Tensors that were handed out stay valid as long as they are referenced, also after the end.
    """

    def __init__(self) -> None:
        self.files_to_tensors_metadata: dict[int, list[SafetensorMetadata]] = {}
        """The wanted tensors of each file, by the file's place in `paths`; set by `stream_files`.
        """
        self.total_size = 0
        """The number of bytes of all wanted tensors. It stays after the streamer was left."""
        self.device_str: str | None = None
        self.start_time: float | None = None
        self.file_streamer = DistributedStreamer()
        """Reads the files; it is opened and closed with this streamer."""
        self.unaligned_copies = 0
        """How many tensors had to be copied for alignment; always 0, as none have to be."""
        self._entered = False
        self._stream: RangeStream | None = None
        self._names: list[str] = []
        self._failure: SourceError | None = None

    def __enter__(self) -> Self:
        self.file_streamer.__enter__()
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
        self.file_streamer.__exit__(exc_type, exc_value, traceback)

    def stream_file(
        self,
        path: str,
        s3_credentials: S3Credentials | None = None,
        device: str | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,
    ) -> None:
        """Begin to read one file, as `stream_files` does."""
        self.stream_files(
            [path],
            s3_credentials=s3_credentials,
            device=device,
            is_distributed=is_distributed,
            tensor_names=tensor_names,
            owned=owned,
        )

    def stream_files(
        self,
        paths: list[str],
        s3_credentials: S3Credentials | None = None,
        device: str | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,
    ) -> None:
        """Begin to read tensors, which `get_tensors` hands out, and end any earlier reading.

        Args:
            paths: files or objects, all of one kind of source.
            s3_credentials: used in place of the environment's.
            device: device that the tensors are wanted on, `cpu` or `cuda:N`; None for the CPU.
            is_distributed: has no effect on reading, since the daemon reads once for all ranks;
                with RUNAI_STREAMER_DIST=1, ranks that set it fail together.
            tensor_names: names of the only tensors to read, each in exactly one file; None for all.
            owned: accepted without effect; each tensor is always its caller's own.

        Raises:
            ValueError: a file cannot be read or is not a safetensors file, or a name is in no file
                or in several. An error about files is also a StreamerError.
        """
        del owned
        if not self._entered:
            raise ConfigError(_NOT_OPEN)
        names = _checked_names(tensor_names)
        self._forget()
        place = usable_device(device)
        self.device_str = device
        self.start_time = time.perf_counter()
        files = [os.fspath(path) for path in paths]
        check_one_kind(files)
        if not files:
            return
        self.file_streamer.set_is_distributed(is_distributed, str(place))
        with as_value_error():
            self._open(files, s3_credentials, place, names)

    def _open(
        self,
        files: Sequence[str],
        credentials: S3Credentials | None,
        device: torch.device,
        names: frozenset[str] | None,
    ) -> None:
        unique = list(dict.fromkeys(files))
        # Views of whole shards need no copy. For a few tensors, only their blocks are read instead.
        hold = names is None and device.type == "cpu"
        limit, origin = told_memory_limit(os.environ, None)
        check_memory_limit(limit, 0, origin)
        session = self.file_streamer.file_streamer.session
        feed = session.open(unique, credentials, hold=hold, memory_limit_bytes=limit)
        try:
            shard_of = {file: shard for shard, file in enumerate(unique)}
            ranges = self._read_headers(feed, [shard_of[file] for file in files], names)
            largest = max((one.stop - one.start for one in ranges), default=0)
            check_memory_limit(limit, largest, origin)
        except BaseException:
            feed.close()
            raise
        self._stream = RangeStream(feed, ranges, device)

    def _read_headers(
        self, feed: Feed, shards: Sequence[int], names: frozenset[str] | None
    ) -> list[Range]:
        catalogs, self._failure = catalogs_of(feed)
        return self._plan(shards, catalogs, names)

    def _plan(
        self,
        shards: Sequence[int],
        catalogs: Sequence[ShardCatalog],
        names: frozenset[str] | None,
    ) -> list[Range]:
        self.files_to_tensors_metadata = {
            place: metadata_of(catalogs[shard], names) for place, shard in enumerate(shards)
        }
        wanted = [
            (shard, entry)
            for shard in shards
            for entry in catalogs[shard].entries
            if names is None or entry.name in names
        ]
        self.total_size = sum(entry.stop - entry.start for _, entry in wanted)
        self._names = [entry.name for _, entry in wanted]
        if names is not None:
            _check_found(names, self._names)
        return [
            Range(shard, entry.start, entry.stop, entry.dtype, entry.shape)
            for shard, entry in wanted
        ]

    def get_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The wanted tensors: each once, with its name, in file order.

        Raises:
            ValueError: a file could not be read to its end; also a StreamerError.
        """
        if not self._entered:
            raise ConfigError(_NOT_OPEN)
        stream, names = self._stream, self._names
        if stream is None:
            return
        handed_out = False
        with as_value_error(), self.file_streamer.ranks.together():
            if self._failure is not None:
                raise self._failure
            for index, tensor in stream.once():
                handed_out = True
                yield names[index], tensor
                del tensor  # only the caller decides how long it lives
        if handed_out:
            self._report(stream.route)

    def _report(self, route: Route) -> None:
        seconds = time.perf_counter() - (self.start_time or 0.0)
        logger.info(
            "event=streamed bytes=%d files=%d device=%s seconds=%.3f gb_per_s=%.2f via=%s",
            self.total_size,
            len(self.files_to_tensors_metadata),
            self.device_str,
            seconds,
            self.total_size / max(seconds, 1e-9) / 1e9,
            route,
        )

    def _forget(self) -> None:
        self._end()
        self.files_to_tensors_metadata = {}
        self.total_size = 0

    def _end(self) -> None:
        stream, self._stream, self._names, self._failure = self._stream, None, [], None
        if stream is not None:
            stream.close()


def _checked_names(names: Collection[str] | None) -> frozenset[str] | None:
    if isinstance(names, str):
        raise ConfigError(f"tensor_names is the str {names!r}; write a list: [{names!r}]")
    if names is not None and not names:
        raise ConfigError("tensor_names is empty; leave it out to stream every tensor")
    return None if names is None else frozenset(names)


def _check_found(wanted: frozenset[str], found: Sequence[str]) -> None:
    missing = sorted(wanted - set(found))
    if missing:
        raise ConfigError(
            f"no file has the tensors {', '.join(missing)}; are the names spelled so?"
        )
    twice = sorted(name for name, count in Counter(found).items() if count > 1)
    if twice:
        raise ConfigError(
            f"several files have the tensors {', '.join(twice)}; leave out the files that are not "
            "meant"
        )
