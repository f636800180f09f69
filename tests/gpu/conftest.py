"""Tests that need a real GPU; elsewhere they are skipped, and say why."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.support.compiled_ring import RING_SOURCE

from streamer_client.copy.ring import native


@pytest.fixture(scope="session", autouse=True)
def _context() -> None:
    """Makes the device's context before a test, so that its threads and descriptors are no leak of
    a test.
    """
    import torch

    if not torch.cuda.is_available():
        return
    cuda: Any = torch.cuda  # torch has no types for CUDA streams and events
    torch.empty(1 << 20, dtype=torch.uint8, pin_memory=True).to("cuda", non_blocking=True)
    with cuda.stream(cuda.Stream()):
        event = cuda.Event(blocking=True)
        event.record()
    event.synchronize()


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")


@pytest.fixture(scope="session")
def built_library(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """The compiled ring: the installed one, else one that is built here; None without a
    compiler.
    """
    found = native.library_path()
    compiler = shutil.which("cc")
    if found is not None or compiler is None:
        return found
    path: Path = tmp_path_factory.mktemp("ring") / "ring.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(path), str(RING_SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return str(path)


@pytest.fixture(params=["compiled", "torch"])
def ring(
    request: pytest.FixtureRequest, built_library: str | None, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The ring that a test's loads use."""
    if request.param == "compiled":
        if built_library is None:
            pytest.skip("the compiled ring is not built, and there is no C compiler")
        monkeypatch.setenv(native.LIBRARY_ENV, built_library)
    else:
        monkeypatch.setenv(native.LIBRARY_ENV, "off")
    return str(request.param)
