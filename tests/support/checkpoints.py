"""Small safetensors files of every kind, written byte by byte."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamer_client.contract.safetensors.catalog import DTYPE_BITS

Stored = tuple[str, Sequence[int], bytes]
"""A dtype as safetensors names it, a shape, and the bytes."""


HEADER_ROOM_BYTES = 16 << 10


def write_shard(
    path: Path, tensors: Mapping[str, Stored], *, pad: bool = True, header_bytes: int = 0
) -> Path:
    """Write one file; without padding the data section begins wherever the header ends.

    With `header_bytes`, the header is padded to so many bytes, its length field included.
    """
    header: dict[str, object] = {}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [at, at + len(data)],
        }
        at += len(data)
    text = json.dumps(header).encode()
    if pad:
        text += b" " * (-len(text) % 8)
    text += b" " * (header_bytes - 8 - len(text))
    body = b"".join(data for _, _, data in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def random_tensor(dtype: str, shape: Sequence[int], seed: int = 0) -> Stored:
    """Random bytes of the right number; booleans are zeros and ones."""
    elements = 1
    for size in shape:
        elements *= size
    data = random.Random(seed).randbytes(elements * DTYPE_BITS[dtype] // 8)
    if dtype == "BOOL":
        data = bytes(byte & 1 for byte in data)
    return dtype, tuple(shape), data


def one_of_each() -> dict[str, Stored]:
    """A tensor of every dtype, a scalar, empty ones and an odd-sized one between them."""
    tensors = {
        f"t.{dtype}": random_tensor(dtype, (3, 16), seed) for seed, dtype in enumerate(DTYPE_BITS)
    }
    wide_first = sorted(tensors.items(), key=lambda item: -DTYPE_BITS[item[1][0]])
    return {
        "scalar": random_tensor("F64", (), 100),
        "empty": ("F32", (0, 7), b""),
        **dict(wide_first),
        "last.empty": ("BF16", (4, 0), b""),
    }


def write_blocks(path: Path, blocks: int, block_bytes: int = 64 << 10, seed: int = 0) -> Path:
    """Write a file of exactly so many blocks; its tensors are about a block long, at any offset."""
    size_bytes = blocks * block_bytes
    rest = size_bytes - HEADER_ROOM_BYTES
    part = block_bytes - 1000
    sizes = [part] * (rest // part) + ([rest % part] if rest % part else [])
    tensors = {
        f"{path.stem}.{place:03d}": random_tensor("U8", (size,), seed * 1000 + place)
        for place, size in enumerate(sizes)
    }
    write_shard(path, tensors, header_bytes=HEADER_ROOM_BYTES)
    assert path.stat().st_size == size_bytes
    return path


def write_model(
    directory: Path, shards: int, blocks: int, block_bytes: int = 64 << 10, seed: int = 0
) -> list[Path]:
    """A checkpoint of equal shards."""
    directory.mkdir(parents=True, exist_ok=True)
    return [
        write_blocks(
            directory / f"{directory.name}-{place}.safetensors", blocks, block_bytes, seed + place
        )
        for place in range(shards)
    ]
