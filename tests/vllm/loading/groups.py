"""The process groups that a rank of the harness belongs to, over gloo.

Owns the choice of groups for an engine's configuration, and joining and leaving them. Runs in each
rank.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.v1.worker.gpu_worker import init_worker_distributed_environment

from tests.support.waiting import eventually

JOIN_S: Final = 60.0
_STATE: Final[Any] = parallel_state
"""The module in which vLLM keeps its groups; its functions have no types."""


@dataclass(frozen=True, slots=True)
class Group:
    """A rank's place among the others in one engine of the job."""

    rank: int
    ranks: int
    data_parallel: bool
    directory: str
    number: int
    """The number of the engine: the ranks of each engine meet at a place of their own."""

    def leave(self) -> None:
        """Leave the groups of the last engine."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            _STATE.destroy_model_parallel()
            _STATE.destroy_distributed_environment()

    def place(self, config: VllmConfig) -> None:
        """Tell a configuration which rank it is for, and join the groups that it needs."""
        parallel = config.parallel_config
        parallel.disable_custom_all_reduce = True
        parallel.rank = 0 if self.data_parallel else self.rank
        if self.data_parallel:
            parallel.data_parallel_rank = parallel.data_parallel_index = self.rank
        if not _has_groups(config):
            self._join(config)

    def _join(self, config: VllmConfig) -> None:
        if torch.distributed.is_initialized():
            _STATE.destroy_model_parallel()  # the groups that exist lack the experts' group
        parallel = config.parallel_config
        if self.data_parallel:
            parallel.data_parallel_master_port = self._port()
            parallel._data_parallel_master_port_list = []
        method = f"file://{self.directory}/groups-{self.number}"
        # vLLM's ranks name the memory that they share on the CPU after this variable. Nobody would
        # remove that memory after `os._exit`, so each rank gets a name of its own and shares none.
        os.environ["VLLM_DIST_IDENT"] = f"harness-{os.getppid()}-{self.number}-{self.rank}"
        with set_current_vllm_config(config):
            init_worker_distributed_environment(config, parallel.rank, method, self.rank, "gloo")

    def _port(self) -> int:
        """A free port, which the first rank finds and the others read."""
        path = Path(self.directory) / f"port-{self.number}"
        if self.rank == 0:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                found = probe.getsockname()[1]
            unfinished = path.with_suffix(".new")
            unfinished.write_text(str(found))
            unfinished.rename(path)
        eventually(path.exists, JOIN_S)
        return int(path.read_text())


def _has_groups(config: VllmConfig) -> bool:
    """Whether the groups exist that vLLM makes for a model, also those of experts."""
    if not _STATE.model_parallel_is_initialized():
        return False
    return not config.model_config.is_moe or _STATE._EP is not None
