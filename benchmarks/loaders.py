"""The compared loaders, each with the same two methods.

`iterate` yields every tensor as the loader delivers it, and the caller drops or keeps it. `copy`
puts every byte into memory that was allocated and touched before. Imports happen in `make`, before
the clock starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

Targets = dict[str, torch.Tensor]
Named = Iterator[tuple[str, torch.Tensor]]


class Loader(Protocol):
    """One way to read a checkpoint, once."""

    def iterate(self) -> Named:
        """Yield every tensor as it is delivered."""
        ...

    def copy(self, targets: Targets) -> None:
        """Copy every byte into `targets`."""
        ...


class Streamerd:
    def __init__(self, paths: list[str], socket: str) -> None:
        import streamer_client
        import streamer_client.checkpoint
        import streamer_client.delivery.daemon_feed

        self._connect = streamer_client.connect
        self._socket = socket
        self._directory = os.path.dirname(paths[0])

    def iterate(self) -> Named:
        with self._connect(self._socket) as client, client.open(self._directory) as checkpoint:
            yield from checkpoint.tensors()

    def copy(self, targets: Targets) -> None:
        with (
            self._connect(self._socket) as client,
            client.open(self._directory, hold=False, page_cache=True) as checkpoint,
        ):
            checkpoint.load_into(targets)


class SafeOpen:
    """Reads by `safe_open` and `get_tensor`, one tensor after the other."""

    def __init__(self, paths: list[str], _socket: str) -> None:
        from safetensors import safe_open

        self._open: Callable[..., Any] = safe_open
        self._paths = paths

    def iterate(self) -> Named:
        for path in self._paths:
            with self._open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  not a dict
                    yield name, file.get_tensor(name)

    def copy(self, targets: Targets) -> None:
        for name, tensor in self.iterate():
            targets[name].copy_(tensor)


class LoadFile:
    def __init__(self, paths: list[str], _socket: str) -> None:
        from safetensors.torch import load_file

        self._load_file = load_file
        self._paths = paths

    def iterate(self) -> Named:
        for path in self._paths:
            yield from self._load_file(path).items()

    def copy(self, targets: Targets) -> None:
        for name, tensor in self.iterate():
            targets[name].copy_(tensor)


class RunAi:
    """Run:ai Model Streamer in its best way: its buffers are reused if bytes are copied out."""

    def __init__(self, paths: list[str], _socket: str) -> None:
        from runai_model_streamer import SafetensorsStreamer

        self._streamer: Callable[[], Any] = SafetensorsStreamer
        self._paths = paths

    def _tensors(self, *, owned: bool) -> Named:
        with self._streamer() as streamer:
            streamer.stream_files(self._paths, owned=owned)
            yield from streamer.get_tensors()

    def iterate(self) -> Named:
        yield from self._tensors(owned=True)

    def copy(self, targets: Targets) -> None:
        for name, tensor in self._tensors(owned=False):
            targets[name].copy_(tensor)


class RunAiClone(RunAi):
    """Run:ai Model Streamer as vLLM 0.32 iterates over it: each tensor is cloned."""

    def iterate(self) -> Named:
        for name, tensor in self._tensors(owned=True):
            yield name, tensor.clone()


BUFFERED = {"RUNAI_STREAMER_FS_STRATEGY": "sync_buffered"}
LOADERS: dict[str, tuple[Callable[[list[str], str], Loader], dict[str, str]]] = {
    "streamerd": (Streamerd, {}),
    "safetensors get_tensor": (SafeOpen, {}),
    "safetensors load_file": (LoadFile, {}),
    "runai": (RunAi, {}),
    "runai buffered": (RunAi, BUFFERED),
    "runai, cloned": (RunAiClone, {}),
    "runai buffered, cloned": (RunAiClone, BUFFERED),
}


def make(name: str, paths: list[str], socket: str) -> Loader:
    """Make the loader of that name, after setting its environment and importing everything."""
    factory, environment = LOADERS[name]
    os.environ.update(environment)
    os.environ.setdefault("RUNAI_STREAMER_LOG_LEVEL", "ERROR")
    return factory(paths, socket)
