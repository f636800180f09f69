"""Streaming safetensors files, with Run:ai's `SafetensorsStreamer` interface.

Owns which tensors of which files are wanted and the order of calls. Used by one thread at a time.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

import torch

from streamer_client.contract.catalog import ShardCatalog
from streamer_client.contract.errors import ConfigError
from streamer_client.copy.feed import Route
from streamer_client.runai.credentials import S3Credentials
from streamer_client.runai.failures import as_value_error
from streamer_client.runai.file_streamer import check_one_kind, usable_device
from streamer_client.runai.ranges import Range, Reading
from streamer_client.runai.session import Session
from streamer_client.runai.tensor_metadata import SafetensorMetadata, metadata_of
from streamer_client.tensors.headers import Headers

log = logging.getLogger(__name__)

_NOT_OPEN: Final = "the streamer is not open; use it as `with SafetensorsStreamer() as streamer:`"


class SafetensorsStreamer:
    """Streams tensors out of safetensors files. A context manager: leaving it ends the reading.

    Tensors that were handed out stay valid as long as they are referenced, also after the end.
    """

    def __init__(self) -> None:
        self.files_to_tensors_metadata: dict[int, list[SafetensorMetadata]] = {}
        """The place of a file in `paths` to its wanted tensors; there once `stream_files` is."""
        self.total_size = 0
        """Bytes of all wanted tensors."""
        self.device_str: str | None = None
        self.start_time: float | None = None
        self._session = Session()
        self._entered = False
        self._reading: Reading | None = None
        self._names: list[str] = []

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

    def stream_file(
        self,
        path: str,
        s3_credentials: S3Credentials | None = None,
        device: str | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,
    ) -> None:
        """Begin to read one file; as `stream_files`."""
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
        """Begin to read; `get_tensors` hands the tensors out. Ends what was being read before.

        Args:
            paths: files or objects, all of one kind of source.
            s3_credentials: win over the environment.
            device: where the tensors are wanted, `cpu` or `cuda:N`; None is the CPU.
            is_distributed: accepted; the daemon reads once for all ranks either way.
            tensor_names: only these, each of which must be in exactly one file; None is all.
            owned: accepted; each tensor is its caller's own either way.

        Raises:
            ValueError: a file cannot be read or is no safetensors file, or a name is in none or in
                several; a StreamerError too where it is about files.
        """
        del is_distributed, owned
        if not self._entered:
            raise ConfigError(_NOT_OPEN)
        names = _checked_names(tensor_names)
        self._end()
        place = usable_device(device)
        self.device_str = device
        self.start_time = time.perf_counter()
        files = [os.fspath(path) for path in paths]
        check_one_kind(files)
        if not files:
            return
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
        # Views of whole files cost no copy; for some of the tensors, only their blocks are read.
        hold = names is None and device.type == "cpu"
        feed = self._session.open(unique, credentials, hold=hold)
        try:
            shard_of = {file: shard for shard, file in enumerate(unique)}
            catalogs = Headers(feed, unique=False).all()
            ranges = self._plan([shard_of[file] for file in files], catalogs, names)
        except BaseException:
            feed.close()
            raise
        self._reading = Reading(feed, ranges, device)

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
            (shard, one.entry)
            for shard, found in zip(shards, self.files_to_tensors_metadata.values(), strict=True)
            for one in found
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
        """What `stream_files` asked for: each tensor once, with its name, in file order.

        Raises:
            ValueError: a file could not be read to its end; also a StreamerError.
        """
        if not self._entered:
            raise ConfigError(_NOT_OPEN)
        reading, names = self._reading, self._names
        if reading is None:
            return
        handed_out = False
        with as_value_error():
            for index, tensor in reading.once():
                handed_out = True
                yield names[index], tensor
                del tensor  # the caller alone decides how long it lives
        if handed_out:
            self._report(reading.route)

    def _report(self, route: Route) -> None:
        seconds = time.perf_counter() - (self.start_time or 0.0)
        log.info(
            "event=streamed bytes=%d files=%d device=%s seconds=%.3f gb_per_s=%.2f via=%s",
            self.total_size,
            len(self.files_to_tensors_metadata),
            self.device_str,
            seconds,
            self.total_size / max(seconds, 1e-9) / 1e9,
            route,
        )

    def _end(self) -> None:
        reading, self._reading, self._names = self._reading, None, []
        self.files_to_tensors_metadata = {}
        self.total_size = 0
        if reading is not None:
            reading.close()


def _checked_names(names: Collection[str] | None) -> frozenset[str] | None:
    if isinstance(names, str):
        raise ConfigError(f"tensor_names is the text {names!r}; write a list: [{names!r}]")
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
