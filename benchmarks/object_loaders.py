"""The ways to read a checkpoint from an object store that are compared, each behind one question.

A loader yields every tensor once its bytes are in this process's memory. Imports happen in `make`,
before the clock starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch

from benchmarks.checkpoint_files import stored_tensors
from benchmarks.object_images import (
    ANYTHING,
    REGION,
    Bare,
    BareExisting,
    BareHuge,
    Boto3,
    Crt,
    Objects,
    Obstore,
)


class Loader(Protocol):
    """One way to read a checkpoint, once."""

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Every tensor's name, and its bytes as a tensor or a buffer."""
        ...


class Streamerd:
    """From `open` on: the daemon fetches, this process maps."""

    def __init__(self, objects: Objects) -> None:
        import streamer_client
        import streamer_client.checkpoint
        import streamer_client.delivery.daemon_feed
        import streamer_client.storage.s3.environment
        import streamer_client.storage.s3.storage

        self._connect = streamer_client.connect
        self._objects = objects
        self._source = objects.uris[0].rpartition("/")[0]

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        with (
            self._connect(self._objects.socket) as client,
            client.open(self._source, concurrency=self._objects.connections) as checkpoint,
        ):
            yield from checkpoint.tensors()


class StreamerdDirect(Streamerd):
    """Without a daemon, into parameters that exist, as vLLM has them."""

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
    """Run:ai Model Streamer with its S3 plugin, as many connections as by its own default."""

    def __init__(self, objects: Objects) -> None:
        import runai_model_streamer_s3  # noqa: F401  before the clock starts
        from runai_model_streamer import SafetensorsStreamer

        self._streamer: Callable[[], Any] = SafetensorsStreamer
        self._objects = objects

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        with self._streamer() as streamer:
            streamer.stream_files(self._objects.uris)
            yield from streamer.get_tensors()


class RunAiConnections(RunAi):
    """With as many connections as the others."""

    def __init__(self, objects: Objects) -> None:
        os.environ["RUNAI_STREAMER_CONCURRENCY"] = str(objects.connections)
        super().__init__(objects)


class Way(NamedTuple):
    """One line of the table."""

    make: Callable[[Objects], Loader]
    keep: bool = True
    """Whether all tensors are there in the end, or each is dropped before the next comes."""


WAYS = {
    "streamerd": Way(Streamerd),
    "bare": Way(Bare),
    "bare, huge pages": Way(BareHuge),
    "streamerd direct": Way(StreamerdDirect),
    "bare, existing memory": Way(BareExisting),
    "runai": Way(RunAi, keep=False),
    "runai, connections": Way(RunAiConnections, keep=False),
    "runai, kept": Way(RunAi),
    "boto3": Way(Boto3),
    "awscrt": Way(Crt),
    "obstore": Way(Obstore),
}


def make(name: str, objects: Objects) -> Loader:
    """The loader of that name, its environment set and everything imported."""
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
    return WAYS[name].make(objects)
