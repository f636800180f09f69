"""The torch dtype and shape for each safetensors dtype.

Follows the torch binding of the safetensors package. That binding refuses the F6 dtypes, and F4
with an odd last dimension. Here such tensors are handed out as their packed bytes, so that every
valid file can be read.
"""

from __future__ import annotations

import functools
from typing import Final

import torch

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.safetensors.catalog import DTYPE_BITS

_NAMES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2",
}


@functools.lru_cache(maxsize=4096)
def torch_form(dtype: str, shape: tuple[int, ...]) -> tuple[torch.dtype, tuple[int, ...]]:
    """The torch dtype and shape in which a stored tensor is handed out.

    F4 has two elements in a byte and torch counts bytes, so its last dimension is halved. A dtype
    that torch lacks becomes `uint8`. Its last dimension then counts bytes if a row fills whole
    bytes (for six bits: a multiple of four elements); otherwise the shape is flat, `(bytes,)`.

    Raises:
        ConfigError: this torch is too old for the dtype.
    """
    bits = DTYPE_BITS[dtype]
    if bits % 8 == 0:
        return _named(dtype), shape
    rows_are_whole = bool(shape) and shape[-1] * bits % 8 == 0
    if not rows_are_whole:
        elements = 1
        for size in shape:
            elements *= size
        return torch.uint8, (elements * bits // 8,)
    packed = (*shape[:-1], shape[-1] * bits // 8)
    return (_named(dtype) if dtype in _NAMES else torch.uint8), packed


def _named(dtype: str) -> torch.dtype:
    found = getattr(torch, _NAMES[dtype], None)
    if not isinstance(found, torch.dtype):
        raise ConfigError(
            f"torch {torch.__version__} has no dtype for {dtype} ({_NAMES[dtype]}); "
            "install a newer one"
        )
    return found
