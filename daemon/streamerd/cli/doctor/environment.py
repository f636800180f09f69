"""Judges the installation of vLLM, its plugin and torch, and what the kernel offers.

This module is pure: facts come in, verdicts go out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from streamer_client.contract.options import MODE_ENV, Mode
from streamer_client.contract.printable import printable
from streamerd.cli.doctor.finding import Finding, State

OLDEST_VLLM: Final = (0, 21)
WITH_ALL: Final = (6, 5)
"""The first version of Linux that has every feature in `KernelFacts`."""
PLUGIN: Final = "streamerd"
"""The plugin's name among vLLM's entry points."""
TORCH_FAMILY: Final = ("torchvision", "torchaudio", "torchcodec")
"""Packages that vLLM's distributions bring along, and that must be built for the installed
torch."""


@dataclass(frozen=True, slots=True)
class PythonFacts:
    """The installed packages of one Python environment; the version of a missing one is empty."""

    prefix: str
    vllm: str = ""
    streamerd: str = ""
    torch: str = ""
    registered: bool = False
    """Whether the plugin is among vLLM's entry points."""
    allowed_plugins: str | None = None
    """The value of `VLLM_PLUGINS`; None if it is not set."""
    mode: str = ""
    """The value of `STREAMERD_MODE`."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """The packages of `TORCH_FAMILY` that fail to import, each with the error."""


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """The running kernel's release and features."""

    release: str
    collapse: bool
    cachestat: bool
    pidfd: bool


def check_vllm(python: PythonFacts, daemon_version: str | None) -> Finding:
    """Whether vLLM of this environment would use the daemon."""
    state, text, remedy = _vllm(python, daemon_version)
    return Finding("vllm", state, text, remedy)


def _vllm(python: PythonFacts, daemon_version: str | None) -> tuple[State, str, str]:
    here = f"in {python.prefix}"
    if not python.vllm:
        remedy = "with vLLM's environment activated, `streamerctl doctor` looks there"
        return State.NOTE, f"no vLLM {here}", remedy
    if _version(python.vllm) < OLDEST_VLLM:
        oldest = ".".join(map(str, OLDEST_VLLM))
        return State.FAILED, f"vLLM {python.vllm} {here} is too old", f"install {oldest} or newer"
    install = "`pip install streamerd` in that environment"
    if not python.streamerd or not python.registered:
        return State.FAILED, f"vLLM {python.vllm} {here} has no streamerd plugin", install
    allowed = python.allowed_plugins
    if allowed is not None and PLUGIN not in [name.strip() for name in allowed.split(",")]:
        text = f"VLLM_PLUGINS={allowed} keeps the plugin from being loaded"
        return State.FAILED, text, f"add {PLUGIN} to it, or unset it"
    if python.mode == Mode.OFF:
        return State.WARNING, f"{MODE_ENV}={Mode.OFF}: vLLM's own loaders are used", "unset it"
    text = f"vLLM {python.vllm} with streamerd {python.streamerd} {here}"
    if daemon_version is not None and daemon_version != python.streamerd:
        return State.WARNING, f"{text}, the daemon has version {daemon_version}", install
    return State.OK, text, ""


def check_imports(python: PythonFacts) -> list[Finding]:
    """One finding for each package that fails to import, since vLLM would import it; else none."""
    beside = f"torch {python.torch}" if python.torch else "this torch"
    remedy = f"`pip uninstall {' '.join(python.broken)}` in {python.prefix}; text models need none"
    return [
        Finding(
            "imports",
            State.FAILED,
            f"{name} does not fit {beside}, and vLLM may not import: {printable(why)}",
            remedy,
        )
        for name, why in python.broken.items()
    ]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def check_torch(python: PythonFacts, *, gpu: bool) -> Finding:
    """Whether torch is built for the GPU, if the machine has a GPU."""
    machine = "a GPU" if gpu else "no GPU"
    if not python.torch:
        text = f"no torch in {python.prefix}; the machine has {machine}"
        return Finding("torch", State.NOTE, text)
    text = f"torch {python.torch}, the machine has {machine}"
    if gpu and "+cpu" in python.torch:
        return Finding("torch", State.WARNING, text, "install a build of torch for the GPU")
    return Finding("torch", State.OK, text)


def check_kernel(kernel: KernelFacts) -> Finding:
    """Whether the kernel has what makes loads fast, and what tells that a client has ended."""
    features = {
        "pidfd": kernel.pidfd,
        "huge pages on demand": kernel.collapse,
        "cachestat": kernel.cachestat,
    }
    have = ", ".join(name for name, there in features.items() if there) or "no feature in use here"
    lacks = ", ".join(name for name, there in features.items() if not there)
    text = f"Linux {kernel.release}: {have}"
    if not kernel.pidfd:
        remedy = "use Linux 5.3 or newer: without pidfd, leases of dead clients end minutes later"
        return Finding("kernel", State.WARNING, f"{text}; lacks {lacks}", remedy)
    if lacks:
        remedy = "nothing needs to be done; with Linux 6.5, which has all of it, loads are faster"
        if _version(kernel.release) >= WITH_ALL:
            remedy = "nothing needs to be done; a seccomp filter forbids it here"
        return Finding("kernel", State.NOTE, f"{text}; lacks {lacks}", remedy)
    return Finding("kernel", State.OK, text)
