"""Checkpoints for the GPU benchmark: shapes of real models, with bytes that a GPU can make again.

Every byte follows from its tensor's name and its place by arithmetic alone, the same on any device.
So a loader's tensors are compared with the written ones where they are, at the GPU's speed.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

GIB = 1 << 30
CHUNK_BYTES = 64 << 20
SMALL_COUNT = 10_000
FILE_GIB = 3
FILE_LAYERS = 7
_LAYER = (
    *(("q_proj", (4096, 4096)), ("k_proj", (1024, 4096)), ("v_proj", (1024, 4096))),
    *(("o_proj", (4096, 4096)), ("gate_proj", (14336, 4096)), ("up_proj", (14336, 4096))),
    *(("down_proj", (4096, 14336)), ("input_norm", (4096,)), ("post_norm", (4096,))),
)
"""The tensors of one layer of Llama 3 8B: 416 MiB of BF16."""


class Wanted(NamedTuple):
    """One BF16 tensor of a file."""

    name: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        size = 2
        for dim in self.shape:
            size *= dim
        return size


def dense(gib: int, tag: str = "") -> list[list[Wanted]]:
    """Files of 3 GiB: seven layers each, and one more matrix for the rest."""
    files: list[list[Wanted]] = []
    for number in range(gib // FILE_GIB):
        chosen = [
            Wanted(f"{tag}model.layers.{number * FILE_LAYERS + layer}.{name}.weight", shape)
            for layer in range(FILE_LAYERS)
            for name, shape in _LAYER
        ]
        left_bytes = FILE_GIB * GIB - sum(one.size_bytes for one in chosen)
        chosen.append(Wanted(f"{tag}embedding.{number}", (left_bytes // 8192, 4096)))
        files.append(chosen)
    return files


def many(size_bytes: int) -> list[list[Wanted]]:
    """One file of many small matrices, such as those of experts."""
    rows = size_bytes // 2 // 32
    return [
        [
            Wanted(f"layers.{place // 128}.experts.{place % 128}.w", (rows, 32))
            for place in range(SMALL_COUNT)
        ]
    ]


def huge() -> list[list[Wanted]]:
    return [[Wanted("embedding", (2 * GIB // 4096, 4096))]]


def pattern(name: str, first_byte: int, size_bytes: int, device: str) -> torch.Tensor:
    """A tensor's bytes from `first_byte` (a multiple of 8) on, as uint8.

    The mixing is that of splitmix64 (Steele et al. 2014), on a counter.
    """
    import torch

    count = -(-size_bytes // 8)
    start = (zlib.crc32(name.encode()) << 30) + first_byte // 8
    mixed = torch.arange(start, start + count, dtype=torch.int64, device=device)
    mixed.mul_(-7046029254386353131)
    mixed.bitwise_xor_(mixed >> 31)
    mixed.mul_(-4658895280553007687)
    mixed.bitwise_xor_(mixed >> 29)
    return mixed.view(torch.uint8)[:size_bytes]


def build(directory: str, files: Sequence[Sequence[Wanted]], device: str) -> list[str]:
    """Write the files that do not exist yet; return the paths of all."""
    os.makedirs(directory, exist_ok=True)
    paths = []
    for number, wanted in enumerate(files):
        name = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        paths.append(os.path.join(directory, name))
        if not os.path.exists(paths[-1]):
            _write(paths[-1], wanted, device)
    return paths


def _write(path: str, wanted: Sequence[Wanted], device: str) -> None:
    header: dict[str, object] = {}
    at = 0
    for one in wanted:
        stop = at + one.size_bytes
        header[one.name] = {"dtype": "BF16", "shape": one.shape, "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    fd = os.open(path + ".part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.pwrite(fd, len(text).to_bytes(8, "little") + text, 0)
        with ThreadPoolExecutor(8) as pool:
            for done in [
                pool.submit(_put, fd, place, data)
                for place, data in _data(wanted, 8 + len(text), device)
            ]:
                done.result()
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(path + ".part", path)


def _data(
    wanted: Sequence[Wanted], start: int, device: str
) -> Iterator[tuple[int, Callable[[], torch.Tensor]]]:
    """Places in the file, each with a function that makes the bytes there."""
    for one in wanted:
        for at in range(0, one.size_bytes, CHUNK_BYTES):
            size_bytes = min(CHUNK_BYTES, one.size_bytes - at)
            yield start + at, functools.partial(_made, one.name, at, size_bytes, device)
        start += one.size_bytes


def _made(name: str, at: int, size_bytes: int, device: str) -> torch.Tensor:
    return pattern(name, at, size_bytes, device).cpu()


def _put(fd: int, place: int, make: Callable[[], torch.Tensor]) -> None:
    made = make()
    data = memoryview((ctypes.c_char * made.nbytes).from_address(made.data_ptr()))
    while data:
        count = os.pwrite(fd, data, place)
        place += count
        data = data[count:]


def differing(tensors: dict[str, torch.Tensor], wanted: Sequence[Sequence[Wanted]]) -> list[str]:
    """Names of tensors that differ from the written ones, compared on their own device."""
    import torch

    wrong = []
    expected = {one.name: one for file in wanted for one in file}
    for name in expected.keys() | tensors.keys():
        if name not in expected or name not in tensors:
            wrong.append(name)
            continue
        flat = tensors[name].reshape(-1).view(torch.uint8)
        size, shape = expected[name].size_bytes, expected[name].shape
        same = tuple(tensors[name].shape) == shape and flat.numel() == size
        for at in range(0, size if same else 0, CHUNK_BYTES * 4):
            part = flat[at : at + CHUNK_BYTES * 4]
            same = same and torch.equal(part, pattern(name, at, part.numel(), str(flat.device)))
        if not same:
            wrong.append(name)
    return wrong
