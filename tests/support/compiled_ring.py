"""The compiled ring over a fake CUDA driver, for tests on machines without a GPU.

Owns compiling both, if there is a C compiler, and the rings made of them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import streamer_client.copy.ring
from streamer_client.copy.ring.native import NativeRing, load_library

RING_SOURCE = Path(os.path.dirname(streamer_client.copy.ring.__file__)) / "ring.c"
FAKE_SOURCE = Path(__file__).with_name("fake_cuda.c")


class CompiledRing:
    """Both libraries; `fake` sets what the driver does, and tells which calls it got."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("there is no C compiler")
        self.path = str(_compiled(compiler, RING_SOURCE, directory / "ring.so"))
        self.driver = str(_compiled(compiler, FAKE_SOURCE, directory / "fake_cuda.so"))
        self.library = load_library(self.path)
        self.fake = ctypes.CDLL(self.driver)
        for name in ("fake_pinned", "fake_peak"):
            getattr(self.fake, name).restype = ctypes.c_uint64
        self.fake.fake_fill.argtypes = (
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
        )
        self.fake.fake_allocate.argtypes = (ctypes.c_uint64, ctypes.c_size_t)
        self.fake.cuStreamSynchronize.argtypes = (ctypes.c_void_p,)

    def ring(
        self, slots: int = 2, slot_bytes: int = 4096, stream: Callable[[], int] = lambda: 0
    ) -> NativeRing:
        return NativeRing(self.library, 0, slots, slot_bytes, stream, self.driver)

    def fail(self, name: str, after: int = 0, code: int = 700) -> None:
        """Let so many calls succeed and the next one fail."""
        self.fake.fake_fail(name.encode(), after, code)

    def reset(self) -> None:
        self.fail("")
        self.fake.fake_forget_peak()


def _compiled(compiler: str, source: Path, library: Path) -> Path:
    command = [compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", library, source, "-ldl", "-lpthread"], check=True)
    return library
