"""Sizes as users write them: `64GiB`, `500MB`, plain bytes."""

from __future__ import annotations

import argparse
import re
from typing import Final

_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}


def parse_size(text: str) -> int:
    """Bytes of a size; the form that argparse wants of a type.

    Raises:
        argparse.ArgumentTypeError: not a size, or not positive.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 5GiB, 500MB or plain bytes")
    size_bytes = int(float(match[1]) * _UNITS[match[2]])
    if size_bytes <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size to write files of")
    return size_bytes
