"""The compared ways to read a checkpoint from an object store, each with the same method.

A loader yields every tensor once its bytes are in this process's memory. Imports happen in `make`,
before the clock starts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from benchmarks.checkpoint_files import stored_tensors
from benchmarks.objects.bare import Bare, BareExisting, BareHuge
from benchmarks.objects.images import ANYTHING, REGION, Boto3, Crt, Objects, Obstore
from benchmarks.objects.processes import BareProcesses

if TYPE_CHECKING:
    from streamer_client.checkpoint import Checkpoint

PREFETCH_POLL_S = 0.01


class Loader(Protocol):
    """One way to read a checkpoint, once."""

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Yield every tensor's name, and its bytes as a tensor or a buffer."""
        ...


class Streamerd:
    """streamerd with its daemon, timed from `open` on: the daemon fetches, this process maps."""

    def __init__(self, objects: Objects) -> None:
        import streamer_client
        import streamer_client.checkpoint
        import streamer_client.delivery.daemon_feed
        import streamer_client.storage.s3.environment
        import streamer_client.storage.s3.storage

        self._connect = streamer_client.connect
        self._objects = objects
        self._source = objects.source

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Checkpoint]:
        with (
            self._connect(self._objects.socket) as client,
            client.open(self._source, concurrency=self._objects.connections) as checkpoint,
        ):
            yield checkpoint

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        with self._opened() as checkpoint:
            yield from checkpoint.tensors()


class StreamerdPrefetch:
    """The daemon alone, as `streamerctl prefetch` uses it, with connecting and listing.

    The command's own clock starts when the objects are listed. It asks only four times a second
    whether they are there, which is too coarse for small checkpoints.
    """

    def __init__(self, objects: Objects) -> None:
        from streamerd.cli.prefetch import progress_of
        from streamerd.cli.request import Requester
        from streamerd.cli.status import asked_status

        self._progress, self._status = progress_of, asked_status
        self._requester: Callable[[], Requester] = lambda: Requester(objects.socket)
        self._source = objects.source

    def tensors(self) -> Iterator[tuple[str, Any]]:
        with self._requester() as requester:
            prefetching = requester.prefetch(self._source)
            while True:
                progress = self._progress(self._status(requester), prefetching)
                if progress.failures:
                    raise RuntimeError("; ".join(progress.failures))
                if progress.finished:
                    break
                time.sleep(PREFETCH_POLL_S)
        yield from ()


class StreamerdGpu(Streamerd):
    """A first load onto the GPU, timed until the last byte is there."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        torch.ones(1, device="cuda")  # starts CUDA before the clock starts

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        with self._opened() as checkpoint:
            yield from checkpoint.tensors(device="cuda")
            torch.cuda.synchronize()


class StreamerdGpuInto(Streamerd):
    """A first load into parameters on the GPU, as vLLM loads a sharded checkpoint."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        self._targets = {
            tensor.name: torch.ones(
                (tensor.stop - tensor.start) // 2, dtype=torch.bfloat16, device="cuda"
            )
            for path in objects.files
            for tensor in stored_tensors(path)
        }
        torch.cuda.synchronize()

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        with self._opened() as checkpoint:
            checkpoint.load_into(self._targets)
            torch.cuda.synchronize()
        yield from self._targets.items()


class StreamerdDirect(Streamerd):
    """streamerd without a daemon: it reads into parameters that exist already, as vLLM does."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)

        self._targets = {
            tensor.name: torch.ones((tensor.stop - tensor.start) // 2, dtype=torch.bfloat16)
            for path in objects.files
            for tensor in stored_tensors(path)
        }

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        with (
            self._connect(mode="direct") as client,
            client.open(self._source, concurrency=self._objects.connections) as checkpoint,
        ):
            checkpoint.load_into(self._targets)
        yield from self._targets.items()


class RunAi:
    """Run:ai Model Streamer with its S3 plugin and its own default number of connections."""

    def __init__(self, objects: Objects) -> None:
        import runai_model_streamer_s3  # noqa: F401  before the clock starts
        from runai_model_streamer import SafetensorsStreamer

        self._streamer: Callable[[], Any] = SafetensorsStreamer
        self._objects = objects

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        with self._streamer() as streamer:
            streamer.stream_files(self._objects.uris)
            yield from streamer.get_tensors()


class RunAiGpu(RunAi):
    """Run:ai Model Streamer, with each tensor copied to the GPU, as vLLM does."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        torch.ones(1, device="cuda")  # starts CUDA before the clock starts

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in super().tensors():
            yield name, tensor.to("cuda")
        torch.cuda.synchronize()


class RunAiConnections(RunAi):
    """Run:ai Model Streamer with as many connections as the other ways have."""

    def __init__(self, objects: Objects) -> None:
        os.environ["RUNAI_STREAMER_CONCURRENCY"] = str(objects.connections)
        super().__init__(objects)


class Way(NamedTuple):
    """One line of the table."""

    make: Callable[[Objects], Loader]
    keep: bool = True
    """Whether all tensors are kept to the end, or each is dropped before the next comes."""
    links: bool = False
    """Whether the way is also measured over TLS and with a delay."""
    daemon: bool = False
    """Whether the daemon fetches, so that each block is asked for once."""
    verified: bool = True
    """Whether the way yields bytes that can be compared."""


WAYS = {
    "streamerd": Way(Streamerd, links=True, daemon=True),
    "streamerd prefetch": Way(StreamerdPrefetch, links=True, daemon=True, verified=False),
    "streamerd gpu": Way(StreamerdGpu, keep=False, links=True, daemon=True),
    "streamerd gpu, into": Way(StreamerdGpuInto, links=True, daemon=True),
    "streamerd gpu, kept": Way(StreamerdGpu, links=True, daemon=True),
    "bare": Way(Bare),
    "bare, huge pages": Way(BareHuge),
    "bare processes, private": Way(
        partial(BareProcesses, memory="private"), links=True, verified=False
    ),
    "bare processes, faults": Way(partial(BareProcesses, memory="faults"), links=True),
    "bare processes, huge": Way(partial(BareProcesses, memory="huge"), links=True),
    "streamerd direct": Way(StreamerdDirect, links=True),
    "bare, existing memory": Way(BareExisting),
    "runai": Way(RunAi, keep=False),
    "runai, connections": Way(RunAiConnections, keep=False),
    "runai, kept": Way(RunAi),
    "runai, gpu": Way(RunAiGpu, keep=False),
    "boto3": Way(Boto3),
    "awscrt": Way(Crt),
    "obstore": Way(Obstore),
}


def make(name: str, objects: Objects) -> Loader:
    """Make the loader of that name, after setting its environment and importing everything."""
    os.environ.update(
        {
            "AWS_ACCESS_KEY_ID": ANYTHING,
            "AWS_SECRET_ACCESS_KEY": ANYTHING,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": objects.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            "RUNAI_STREAMER_LOG_LEVEL": "ERROR",
        }
    )
    if objects.bundle:
        os.environ["AWS_CA_BUNDLE"] = objects.bundle
    return WAYS[name].make(objects)
