"""Loads one rank's eighth of a Llama 70B onto one GPU: slices against whole tensors.

Owns the shapes and the cuts, which are those of vLLM's tensor parallelism, and the ways that are
compared; vLLM itself takes no part. Runs in the benchmark's own process, over a checkpoint that is
resident in the daemon.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from benchmarks.gpu_files import Wanted, pattern

HIDDEN, INNER, KEYS, RANKS, RANK = 8192, 28672, 1024, 8, 3
_LAYER = (
    *(("q_proj", (HIDDEN, HIDDEN)), ("k_proj", (KEYS, HIDDEN)), ("v_proj", (KEYS, HIDDEN))),
    *(("o_proj", (HIDDEN, HIDDEN)), ("gate_proj", (INNER, HIDDEN)), ("up_proj", (INNER, HIDDEN))),
    *(("down_proj", (HIDDEN, INNER)), ("input_layernorm", (HIDDEN,))),
    *(("post_attention_layernorm", (HIDDEN,)),),
)
"""The tensors of one layer of Llama 3 70B: 1.6 GiB of BF16."""
SLICES, WHOLE = "slices", "whole tensors"
ALONE_AUTO, ALONE_OFF = "one rank, auto", "one rank, off"
FORCED = "one rank, slices all the same"


class SliceRun(NamedTuple):
    """One load of a rank's parameters; times are seconds since it began."""

    seconds: float
    opened_s: float
    """The time at which the checkpoint was open."""
    first_s: float
    """The time at which the first tensor was handed out."""
    copied_bytes: int


def llama_70b(layers: int) -> list[list[Wanted]]:
    """The tensors of so many layers, in one file for each."""
    return [
        [Wanted(f"model.layers.{layer}.{name}.weight", shape) for name, shape in _LAYER]
        for layer in range(layers)
    ]


def share_of(name: str, weight: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    """The view that a rank's weight loader takes."""
    if weight.dim() < 2:
        return weight
    dimension = int("o_proj" in name or "down_proj" in name)
    size = weight.shape[dimension] // ranks
    return weight.narrow(dimension, rank * size, size)


class RankOfMany:
    """The parameters of one rank on one device, and loads into them.

    Args:
        socket: path of the daemon's socket.
        paths: paths of the checkpoint's files.
        files: the tensors of each file.
        rank: number of this rank.
        ranks: how many ranks take a part each.
    """

    def __init__(
        self,
        socket: str,
        paths: Sequence[str],
        files: Sequence[Sequence[Wanted]],
        rank: int = RANK,
        ranks: int = RANKS,
    ) -> None:
        import streamer_client

        self._client = streamer_client.connect(socket)
        self._paths = list(paths)
        self._wanted = {one.name: one for file in files for one in file}
        self._place = rank, ranks
        self.device = torch.device("cuda:0")
        self.parameters = {
            name: torch.empty_like(self._share(name, self._form(one)), device=self.device)
            for name, one in self._wanted.items()
        }
        self.size_bytes = sum(one.nbytes for one in self.parameters.values())

    def _form(self, one: Wanted) -> torch.Tensor:
        return torch.empty(one.shape, dtype=torch.bfloat16, device="meta")

    def _share(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        return share_of(name, weight, *self._place)

    def load(self, way: str) -> SliceRun:
        """Fill all parameters, which are overwritten with wrong bytes before."""
        for parameter in self.parameters.values():
            parameter.fill_(float("nan"))
        torch.cuda.synchronize()
        start_s = time.monotonic()
        folder = os.path.dirname(self._paths[0])
        with self._client.open(folder, files=self._paths) as checkpoint:
            opened_s = time.monotonic() - start_s
            first_s = 0.0
            with self._weights(checkpoint, way) as weights:
                for name, weight in weights:
                    first_s = first_s or time.monotonic() - start_s
                    self.parameters[name].copy_(self._share(name, weight))
                    del weight
            torch.cuda.synchronize()
            seconds = time.monotonic() - start_s
            return SliceRun(seconds, opened_s, first_s, checkpoint.stats.copied_bytes)

    @contextmanager
    def _weights(self, checkpoint: Any, way: str) -> Iterator[Iterator[tuple[str, torch.Tensor]]]:
        from streamer_client.tensors.foretelling import RankPlace

        if way in (WHOLE, ALONE_OFF):
            yield checkpoint.tensors(self.device)
            return
        place = None if way == FORCED else RankPlace(*self._place)
        with checkpoint.slices(self.device, place=place) as weights:
            yield weights

    def wrong(self) -> list[str]:
        """Names of parameters that differ from the written tensors."""
        found = []
        for name, one in self._wanted.items():
            flat = pattern(name, 0, one.size_bytes, str(self.device)).view(torch.int16)
            expected = self._share(name, flat.view(one.shape))
            if not torch.equal(self.parameters[name].view(torch.int16), expected):
                found.append(name)
        return found

    def close(self) -> None:
        self.parameters.clear()
        self._client.close()
        torch.cuda.empty_cache()


def compare(
    rank: RankOfMany, ways: Sequence[str], repetitions: int, told: Callable[[str], None]
) -> dict[str, list[SliceRun]]:
    """Load in each way in turn; each way's bytes are checked once before.

    Raises:
        RuntimeError: bytes are wrong.
    """
    runs: dict[str, list[SliceRun]] = {way: [] for way in ways}
    for way in ways:
        rank.load(way)
        wrong = rank.wrong()
        if wrong:
            raise RuntimeError(f"{way}: {len(wrong)} parameters are wrong, as {wrong[0]}")
    for _ in range(repetitions):
        for way in ways:
            run = rank.load(way)
            runs[way].append(run)
            told(
                f"{way:32}{run.seconds:8.4f} s, open {run.opened_s * 1e3:.1f} ms, first tensor "
                f"{run.first_s * 1e3:.1f} ms, copied {run.copied_bytes / 1e9:.2f} GB"
            )
    return runs
