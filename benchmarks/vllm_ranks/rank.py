"""One rank of a tensor-parallel group, which loads a model in several ways in turn.

Owns vLLM's configuration and process group, and the clock: `load_weights` is timed from a barrier
of all ranks to a barrier, with the GPU idle at both. Each rank is a process of its own.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

import torch

WRITER: Final = "streamerd_save"
"""The load format that writes each rank's shard, as `streamerctl shard` does."""
_LOADED: Final = re.compile(r"event=loaded .*bytes=(\d+) copied=(\d+) .*via=(\S+)")


class Case(NamedTuple):
    """One way to load."""

    name: str
    load_format: str
    extra: Mapping[str, Any] = MappingProxyType({})


STOCK, WHOLE = Case("stock", "auto"), Case("whole", "runai_streamer", {"slices": "off"})
SLICES, SHARDED = Case("slices", "runai_streamer"), Case("sharded", "runai_streamer_sharded")
PARTS: Final = {"plain": (STOCK, WHOLE, SLICES, SHARDED), "fp8": (STOCK, WHOLE, SLICES)}
"""What is compared, without quantisation and where vLLM quantises while it loads."""


@dataclass
class Took:
    """One load of one rank; times are in seconds."""

    own_s: float = 0.0
    together_s: float = 0.0
    """The time until the last rank was done."""
    bytes: int = 0
    copied: int = 0
    via: str = ""
    differing: list[str] = field(default_factory=list)
    """Tensors that are not those of the first stock load, in form or in any bit."""


class _Lines(logging.Handler):
    """The plugin's lines about loads."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class Rank:
    """This process as a rank.

    Args:
        work: a directory that all ranks share, for the meeting point and the shards.
        rank: number of this rank.
        ranks: how many ranks there are.
        on_cpu: whether to load onto the CPU.
    """

    def __init__(self, work: str, rank: int, ranks: int, *, on_cpu: bool) -> None:
        from vllm.plugins import load_general_plugins

        self._work, self._rank, self._ranks, self._on_cpu = work, rank, ranks, on_cpu
        self._joined = False
        self._lines = _Lines()
        logger = logging.getLogger("streamer_vllm.session")
        logger.addHandler(self._lines)
        logger.setLevel(logging.INFO)
        if on_cpu:  # vLLM's worker for CPUs does the same: there is no cache to empty
            torch.accelerator.empty_cache = lambda: None
            torch.set_num_threads(1)
        else:
            torch.cuda.set_device(rank)
        cast("Any", load_general_plugins)()

    @property
    def shards(self) -> str:
        """The directory of the sharded model."""
        return os.path.join(self._work, "shards")

    def _config(self, model: str, case: Case, quantization: str | None) -> Any:
        from vllm.engine.arg_utils import EngineArgs

        config: Any = EngineArgs(
            model=model,
            load_format=case.load_format,
            model_loader_extra_config=dict(case.extra),
            quantization=quantization,
            enforce_eager=True,
            max_model_len=512,
            max_num_seqs=4,
            skip_tokenizer_init=True,
            tensor_parallel_size=self._ranks,
            distributed_executor_backend="mp" if self._ranks > 1 else None,
            disable_custom_all_reduce=True,
            seed=0,
            use_tqdm_on_load=False,
        ).create_engine_config()
        config.parallel_config.rank = self._rank
        if not self._joined:
            self._join(config)
        return config

    def _join(self, config: Any) -> None:
        from vllm.config import set_current_vllm_config
        from vllm.v1.worker.gpu_worker import init_worker_distributed_environment

        meeting = f"file://{self._work}/group"
        backend = "gloo" if self._on_cpu else "nccl"
        with set_current_vllm_config(config):
            init_worker_distributed_environment(config, self._rank, meeting, self._rank, backend)
        self._joined = True

    def _idle(self) -> None:
        if not self._on_cpu:
            torch.cuda.synchronize()

    def load(self, model: str, case: Case, quantization: str | None = None) -> tuple[Any, Took]:
        """Load a model as vLLM's worker does, and tell what its weights took."""
        from vllm.config import set_current_vllm_config
        from vllm.distributed import get_tp_group
        from vllm.model_executor.model_loader import get_model_loader

        config, took = self._config(model, case, quantization), Took()
        self._lines.texts.clear()
        with set_current_vllm_config(config):
            loader: Any = get_model_loader(config.load_config)
            load_weights, barrier = loader.load_weights, cast("Any", get_tp_group()).barrier

            def timed(*arguments: Any) -> None:
                self._idle()
                barrier()
                start_s = time.perf_counter()
                load_weights(*arguments)
                self._idle()
                took.own_s = time.perf_counter() - start_s
                barrier()
                took.together_s = time.perf_counter() - start_s

            loader.load_weights = timed
            loaded = loader.load_model(vllm_config=config, model_config=config.model_config)
            self._idle()
        if found := _LOADED.search("\n".join(self._lines.texts)):
            took.bytes, took.copied, took.via = int(found[1]), int(found[2]), found[3]
        return loaded, took

    def write_shards(self, model: str) -> None:
        """Write this rank's shard; the first rank writes the files beside the shards."""
        from vllm.distributed import get_tp_group

        from streamer_vllm.sharding.command import Job, complete_checkpoint

        os.makedirs(self.shards, exist_ok=True)
        writer = Case("write", WRITER, {"directory": self.shards, "max_file_bytes": 4 << 30})
        self.load(model, writer)
        self._free()
        barrier = cast("Any", get_tp_group()).barrier
        barrier()
        if not self._rank:
            job = Job(model=model, out=self.shards, tensor_parallel_size=self._ranks)
            complete_checkpoint(job, self._config(model, STOCK, None), self.shards)
        barrier()

    def compare(self, model: str, part: str, rounds: int) -> dict[str, list[Took]]:
        """Load in each way of a part in turn, after one load of each that is not counted."""
        quantization = None if part == "plain" else part
        reference: dict[str, tuple[torch.Tensor, tuple[int, ...]]] = {}
        found: dict[str, list[Took]] = {case.name: [] for case in PARTS[part]}
        for turn in range(rounds + 1):
            for case in PARTS[part]:
                source = self.shards if case is SHARDED else model
                loaded, took = self.load(source, case, quantization)
                if not reference:
                    reference = {n: (t.clone(), t.stride()) for n, t in _tensors(loaded).items()}
                took.differing = _differing(_tensors(loaded), reference)
                del loaded
                self._free()
                if turn:
                    found[case.name].append(took)
        return found

    def _free(self) -> None:
        gc.collect()
        if not self._on_cpu:
            torch.cuda.empty_cache()


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.detach() for name, one in (*model.named_parameters(), *model.named_buffers())}


def _differing(
    found: dict[str, torch.Tensor], reference: dict[str, tuple[torch.Tensor, tuple[int, ...]]]
) -> list[str]:
    odd = sorted(found.keys() ^ reference.keys())
    for name in found.keys() & reference.keys():
        one, (other, strides) = found[name], reference[name]
        alike = (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, strides)
        if not (alike and torch.equal(_bits(one), _bits(other))):
            odd.append(name)
    return odd


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
