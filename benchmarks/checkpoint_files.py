"""The checkpoint that every loader reads: several safetensors files of random bfloat16 tensors.

Owns making the files, their hashes, and moving them into the page cache or out of it.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

import xxhash

LAYER_BYTES = (8 << 10, 24 << 20, 6 << 20, 6 << 20, 8 << 20, 8 << 10, 40 << 20, 40 << 20, 4 << 20)
"""The tensors of one layer of a small language model: norms, attention, feed-forward. Their sum is
about 128 MiB."""
_CACHESTAT = 451
"""The number of the system call cachestat(2), the same on every architecture."""
_READ_BYTES = 8 << 20


class Stored(NamedTuple):
    """One tensor: bytes `start` to `stop` of `path`."""

    path: str
    name: str
    start: int
    stop: int


def build(directory: str, size_bytes: int, files: int) -> list[str]:
    """Make the files that do not exist yet; return the paths of all."""
    os.makedirs(directory, exist_ok=True)
    paths = []
    for number in range(files):
        name = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        paths.append(os.path.join(directory, name))
        if not os.path.exists(paths[-1]):
            _write(paths[-1], number, size_bytes // files)
    return paths


def _write(path: str, number: int, size_bytes: int) -> None:
    header: dict[str, object] = {}
    start = 0
    for place in range(1_000_000):
        tensor_bytes = min(LAYER_BYTES[place % len(LAYER_BYTES)], size_bytes - start)
        if not tensor_bytes:
            break
        stop = start + tensor_bytes
        shape = [tensor_bytes // 2]
        name = f"layers.{number}.{place}.weight"
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = path + ".part"
    with open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(
            os.urandom(min(_READ_BYTES, start - done)) for done in range(0, start, _READ_BYTES)
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def stored_tensors(path: str) -> Iterator[Stored]:
    """The tensors of a file, by the file's own header."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        yield Stored(path, name, 8 + length + start, 8 + length + stop)


def hashes(paths: list[str]) -> dict[str, int]:
    """Each tensor's XXH3-64, from plain reads."""
    found = {}
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            for tensor in stored_tensors(path):
                file.seek(tensor.start)
                found[tensor.name] = xxhash.xxh3_64_intdigest(file.read(tensor.stop - tensor.start))
    return found


def warm(paths: list[str]) -> float:
    """Read everything once; return the share that is in the page cache afterwards."""
    buffer = bytearray(_READ_BYTES)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return cached_share(paths)


def drop(paths: list[str]) -> float:
    """Ask the kernel to forget the files' pages; return the share that it kept."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    return cached_share(paths)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cached", "dirty", "wb", "ev", "rev"))


def cached_share(paths: list[str]) -> float:
    """The share of the files' pages in the page cache; -1 if the kernel has no cachestat(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    cached = pages = 0
    for path in paths:
        span, counts = _Range(0, 0), _Counts()
        fd = os.open(path, os.O_RDONLY)
        try:
            if libc.syscall(
                ctypes.c_long(_CACHESTAT), fd, ctypes.byref(span), ctypes.byref(counts), 0
            ):
                return -1.0
        finally:
            os.close(fd)
        cached += int(counts.cached)
        pages += -(-os.path.getsize(path) // os.sysconf("SC_PAGE_SIZE"))
    return cached / pages
