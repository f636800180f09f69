"""Ways to get a checkpoint onto a GPU; each yields all tensors by name.

Imports and connections are made in the constructor, before any clock starts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

Tensors = dict[str, torch.Tensor]


class GpuLoader(Protocol):
    first_s: float
    """The time on CLOCK_MONOTONIC at which the first tensor was there; 0 if that is not known."""

    def load(self, paths: list[str], targets: Tensors) -> Tensors:
        """All tensors on the device; `targets` is memory that exists already."""
        ...


class _Base:
    first_s = 0.0
    fills = False
    """Whether the loader fills `targets` instead of making tensors."""

    def __init__(self, socket: str, device: str) -> None:
        self.socket = socket
        self.device = device


class _Streamerd(_Base):
    hold = True
    page_cache = True

    def __init__(self, socket: str, device: str) -> None:
        super().__init__(socket, device)
        import streamer_client
        import streamer_client.checkpoint
        import streamer_client.delivery.daemon_feed
        import streamer_client.delivery.direct_feed

        self._client = streamer_client.connect(socket)

    def _open(self, paths: list[str]) -> Any:
        folder = os.path.dirname(paths[0])
        return self._client.open(folder, files=paths, hold=self.hold, page_cache=self.page_cache)


class StreamerdTensors(_Streamerd):
    """Loads as the unsharded loader does: tensors are made on the GPU."""

    def load(self, paths: list[str], _targets: Tensors) -> Tensors:
        found: Tensors = {}
        with self._open(paths) as checkpoint:
            items = iter(checkpoint.tensors(device=self.device))
            name, found_first = next(items)
            self.first_s = time.monotonic()
            found[name] = found_first
            found.update(items)
            return found


class StreamerdInto(_Streamerd):
    """Loads as the sharded loader does: into existing parameters."""

    hold = False
    fills = True

    def load(self, paths: list[str], targets: Tensors) -> Tensors:
        with self._open(paths) as checkpoint:
            checkpoint.load_into(targets)
            return targets


class StreamerdThroughSlabs(StreamerdInto):
    """Loads as `StreamerdInto` does, but never from the page cache."""

    page_cache = False


class StreamerdDirect(_Base):
    """Reads without a daemon: from storage straight into the ring."""

    fills = True

    def __init__(self, socket: str, device: str) -> None:
        super().__init__(socket, device)
        import streamer_client
        import streamer_client.checkpoint
        import streamer_client.delivery.direct_feed

        self._client = streamer_client.connect(mode="direct")

    def load(self, paths: list[str], targets: Tensors) -> Tensors:
        with self._client.open(os.path.dirname(paths[0]), files=paths) as checkpoint:
            checkpoint.load_into(targets)
            return targets


class SafetensorsLoader(_Base):
    def __init__(self, socket: str, device: str) -> None:
        super().__init__(socket, device)
        from safetensors.torch import load_file

        self._load_file = load_file

    def load(self, paths: list[str], _targets: Tensors) -> Tensors:
        found: Tensors = {}
        for path in paths:
            found.update(self._load_file(path, device=self.device))
        return found


class RunAiLoader(_Base):
    """Run:ai Model Streamer delivers to the device and reuses its buffer, so tensors are cloned."""

    def __init__(self, socket: str, device: str) -> None:
        super().__init__(socket, device)
        from runai_model_streamer import SafetensorsStreamer

        self._streamer: Any = SafetensorsStreamer

    def load(self, paths: list[str], _targets: Tensors) -> Tensors:
        with self._streamer() as streamer:
            streamer.stream_files(paths, device=self.device)
            return {name: tensor.clone() for name, tensor in streamer.get_tensors()}


class FastsafetensorsLoader(_Base):
    def __init__(self, socket: str, device: str) -> None:
        super().__init__(socket, device)
        from fastsafetensors import ParallelLoader

        self._loader: Any = ParallelLoader

    def load(self, paths: list[str], _targets: Tensors) -> Tensors:
        loader = self._loader(
            None, hf_weights_files=paths, use_tqdm_on_load=False, device=self.device, nogds=True
        )
        try:
            return dict(loader.iterate_weights())
        finally:
            loader.close()


class InstantTensorLoader(_Base):
    def __init__(self, socket: str, device: str) -> None:
        super().__init__(socket, device)
        from instanttensor import safe_open

        self._open: Any = safe_open

    def load(self, paths: list[str], _targets: Tensors) -> Tensors:
        found: Tensors = {}
        with self._open(paths, framework="pt", device=torch.device(self.device)) as file:
            for name, tensor in file.tensors():
                self.first_s = self.first_s or time.monotonic()
                found[name] = tensor
        return found


Maker = Callable[[str, str], Any]
OFF = {"STREAMERD_RING_LIBRARY": "off"}
BUFFERED = {"RUNAI_STREAMER_FS_STRATEGY": "sync_buffered"}
LOADERS: dict[str, tuple[Maker, dict[str, str]]] = {
    "streamerd into": (StreamerdInto, {}),
    "streamerd tensors": (StreamerdTensors, {}),
    "streamerd into, no compiler": (StreamerdInto, OFF),
    "streamerd tensors, no compiler": (StreamerdTensors, OFF),
    "streamerd into, no page cache": (StreamerdThroughSlabs, {}),
    "streamerd direct": (StreamerdDirect, {}),
    "safetensors": (SafetensorsLoader, {}),
    "runai": (RunAiLoader, {}),
    "runai buffered": (RunAiLoader, BUFFERED),
    "fastsafetensors": (FastsafetensorsLoader, {}),
    "instanttensor": (InstantTensorLoader, {}),
}
OURS = tuple(name for name in LOADERS if name.startswith("streamerd"))
