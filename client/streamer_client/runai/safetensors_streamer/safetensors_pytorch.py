"""The metadata of tensors in safetensors headers, in Run:ai's form, before tensors are read.

Owns the metadata that callers see, and the headers of a list of files. The contract's catalog
defines what a header may say. The module has Run:ai's name, so that code which imports from it
works unchanged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import prod
from typing import Any, Final, NamedTuple

import torch

from streamer_client.contract.errors import ConfigError, CorruptCheckpoint, SourceError
from streamer_client.contract.limits import MAX_HEADER_BYTES
from streamer_client.contract.safetensors.catalog import DTYPE_BITS, ShardCatalog
from streamer_client.contract.safetensors.header import LENGTH_BYTES, header_bytes, parse_header
from streamer_client.contract.uris import is_remote
from streamer_client.copy.dtypes import torch_form
from streamer_client.copy.feed import Feed
from streamer_client.runai.distributed_streamer.distributed_streamer import DistributedStreamer
from streamer_client.runai.failures import as_value_error
from streamer_client.runai.file_streamer.file_streamer import FileStreamer
from streamer_client.runai.ranges import byte_range, read_ranges
from streamer_client.runai.s3_utils.s3_utils import S3Credentials
from streamer_client.tensors.headers import Headers

SAFETENSORS_DATA_OFFSETS_KEY: Final = "data_offsets"
SAFETENSORS_NAME_KEY: Final = "name"
SAFETENSORS_SHAPE_KEY: Final = "shape"
SAFETENSORS_DTYPE_KEY: Final = "dtype"
SAFETENSORS_HEADER_BUFFER_SIZE: Final = LENGTH_BYTES
LITTLE_ENDIAN_LONG_LONG_STRUCT_FORMAT: Final = "<Q"
MAX_HEADER_SIZE: Final = MAX_HEADER_BYTES
_METADATA_KEY: Final = "__metadata__"


class Offsets:
    """Bytes `start` to `end` of the file's data section, which begins after the header."""

    __slots__ = ("end", "start")

    def __init__(self, offsets: Sequence[int]) -> None:
        self.start, self.end = offsets

    def get_diff(self) -> int:
        """The number of bytes between `start` and `end`."""
        return self.end - self.start


class SafetensorMetadata:
    """One stored tensor.

    Args:
        name: name of the tensor.
        safetensorMetadata: the tensor's object in the header: `dtype`, `shape`, `data_offsets`.

    Raises:
        ConfigError: the dtype is unknown, or shape and offsets disagree; also a ValueError.
    """

    __slots__ = ("dtype", "name", "offsets", "shape")

    def __init__(self, name: str, safetensorMetadata: Mapping[str, Any]) -> None:  # noqa: N803  the name is Run:ai's
        self.name = name
        self.shape = list(safetensorMetadata[SAFETENSORS_SHAPE_KEY])
        self.dtype: str = safetensorMetadata[SAFETENSORS_DTYPE_KEY]
        self.offsets = Offsets(safetensorMetadata[SAFETENSORS_DATA_OFFSETS_KEY])
        bits = DTYPE_BITS.get(self.dtype)
        if bits is None:
            raise ConfigError(f"tensor {name!r} has the unknown dtype {self.dtype!r}")
        if self.get_item_count() * bits != self.get_bytesize() * 8:
            raise ConfigError(
                f"tensor {name!r}: {self.shape} of {self.dtype} take "
                f"{self.get_item_count() * bits // 8} bytes, and its offsets hold "
                f"{self.get_bytesize()}; the header is damaged"
            )

    def get_bytesize(self) -> int:
        """The number of stored bytes."""
        return self.offsets.get_diff()

    def get_item_count(self) -> int:
        """The number of elements, as the header counts them."""
        return prod(self.shape)

    def get_torch_dtype(self) -> torch.dtype:
        """The dtype in which the tensor is handed out."""
        return torch_form(self.dtype, tuple(self.shape))[0]

    def get_element_size(self) -> int:
        """The number of bytes of one element in the dtype of `get_torch_dtype`."""
        return self.get_torch_dtype().itemsize

    def __repr__(self) -> str:
        return f"SafetensorMetadata({self.name!r}, {self.dtype}, {self.shape})"


class SafetensorsMetadata:
    """The tensors of one file, in file order.

    Args:
        blob: the header's JSON object.
        offset: number of bytes before the file's data section.
    """

    __slots__ = ("offset", "read_sizes", "tensors_metadata")

    def __init__(self, blob: Mapping[str, Any], offset: int) -> None:
        self.offset = offset
        tensors = [
            SafetensorMetadata(name, one) for name, one in blob.items() if name != _METADATA_KEY
        ]
        self.tensors_metadata = sorted(
            tensors, key=lambda one: (one.offsets.start, one.offsets.end)
        )
        self.read_sizes = [one.get_bytesize() for one in self.tensors_metadata]

    @staticmethod
    def from_files(
        fs: DistributedStreamer | FileStreamer,
        filenames: Sequence[str],
        s3_credentials: S3Credentials | None,
    ) -> list[SafetensorsMetadata]:
        """Read the headers of files, and nothing else of them.

        Args:
            fs: an open streamer, which reads them.
            filenames: files of one kind of source; a name may occur twice.
            s3_credentials: used in place of the environment's.

        Raises:
            ValueError: a file cannot be read, or is not a safetensors file; also a StreamerError.
        """
        files = [os.fspath(name) for name in filenames]
        unique = list(dict.fromkeys(files))
        if not unique:
            return []
        with as_value_error():
            session = _file_streamer(fs).session
            feed = session.open(unique, s3_credentials, hold=False, memory_limit_bytes=-1)
            try:
                catalogs, _ = catalogs_of(feed)
            finally:
                feed.close()
        told = dict(zip(unique, map(_header_object, catalogs), strict=True))
        return [SafetensorsMetadata(*told[file]) for file in files]


def _file_streamer(fs: DistributedStreamer | FileStreamer) -> FileStreamer:
    return fs.file_streamer if isinstance(fs, DistributedStreamer) else fs


def _header_object(catalog: ShardCatalog) -> tuple[dict[str, Any], int]:
    described = {
        entry.name: {
            SAFETENSORS_DTYPE_KEY: entry.dtype,
            SAFETENSORS_SHAPE_KEY: entry.shape,
            SAFETENSORS_DATA_OFFSETS_KEY: (
                entry.start - catalog.data_start,
                entry.stop - catalog.data_start,
            ),
        }
        for entry in catalog.entries
    }
    return described, catalog.data_start


def metadata_of(catalog: ShardCatalog, names: frozenset[str] | None) -> list[SafetensorMetadata]:
    """A shard's tensors, or only the named ones, in file order."""
    described, _ = _header_object(catalog)
    return [
        SafetensorMetadata(name, one)
        for name, one in described.items()
        if names is None or name in names
    ]


class Catalogs(NamedTuple):
    """The headers of a feed's shards, and an error to raise when the tensors are read."""

    found: tuple[ShardCatalog, ...]
    later: SourceError | None


def catalogs_of(feed: Feed) -> Catalogs:
    """The headers of all shards.

    If an object ends before its last tensor does, the error comes when the tensors are read, as in
    Run:ai's streamer. Only for local files does that streamer look at the size first.

    Raises:
        CorruptCheckpoint: a shard is not a safetensors file, or a local file has another size than
            its header tells.
    """
    try:
        return Catalogs(Headers(feed, unique=False).all(), None)
    except CorruptCheckpoint as error:
        if not is_remote(feed.shards[0].uri):
            raise
        found = tuple(_as_declared(feed, shard) for shard in range(len(feed.shards)))
        if all(
            catalog.size_bytes <= shard.size_bytes
            for catalog, shard in zip(found, feed.shards, strict=True)
        ):
            raise
        return Catalogs(found, error)


def _as_declared(feed: Feed, shard: int) -> ShardCatalog:
    """A header, read as if the file had the size that the header tells."""
    uri, size_bytes = feed.shards[shard]
    prefix = _read(feed, shard, min(LENGTH_BYTES, size_bytes))
    header = _read(feed, shard, header_bytes(prefix, uri, size_bytes))
    try:
        described = json.loads(header[LENGTH_BYTES:])
        stops = [one["data_offsets"][1] for name, one in described.items() if name != _METADATA_KEY]
        declared = len(header) + int(max(stops, default=0))
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        declared = size_bytes  # the contract's parser then says what is wrong
    return parse_header(header, uri, max(declared, size_bytes))


def _read(feed: Feed, shard: int, stop: int) -> bytes:
    if not stop:
        return b""
    ((_, tensor),) = read_ranges(feed, [byte_range(shard, 0, stop)], torch.device("cpu"))
    return tensor.numpy().tobytes()


def prepare_request(
    fs: DistributedStreamer | FileStreamer,
    paths: Sequence[str],
    s3_credentials: S3Credentials | None,
) -> list[tuple[int, list[SafetensorMetadata], list[int]]]:
    """For each file: the bytes before its data section, its tensors, and the size of each.

    Raises:
        ValueError: as in `SafetensorsMetadata.from_files`.
    """
    return [
        (one.offset, one.tensors_metadata, one.read_sizes)
        for one in SafetensorsMetadata.from_files(fs, paths, s3_credentials)
    ]


def get_safetensors_dtype_map() -> dict[str, torch.dtype]:
    """The torch dtype for each dtype of safetensors that this torch has."""
    known = {}
    for name in DTYPE_BITS:
        with suppress(ConfigError):
            known[name] = torch_form(name, (16,))[0]
    return known


safetensors_to_torch_dtype: Final = get_safetensors_dtype_map()


def element_size_of(torch_dtype: torch.dtype) -> int:
    """The number of bytes of one element."""
    return torch_dtype.itemsize


def requires_alignment_copy(buffer: torch.Tensor, tensor_metadata: SafetensorMetadata) -> bool:
    """Whether the bytes begin at an address that is not aligned for the tensor's dtype."""
    return buffer.data_ptr() % tensor_metadata.get_element_size() != 0


def create_torch_tensor(buffer: torch.Tensor, tensor_metadata: SafetensorMetadata) -> torch.Tensor:
    """Make a tensor of a range's bytes; it shares their memory.

    Args:
        buffer: the bytes as `uint8`, in any shape, as many as the tensor has.
        tensor_metadata: the tensor's metadata in the header.

    Raises:
        RuntimeError: the bytes are too many, too few or not aligned.
    """
    dtype, shape = torch_form(tensor_metadata.dtype, tuple(tensor_metadata.shape))
    return buffer.view(-1).view(dtype).view(shape)
