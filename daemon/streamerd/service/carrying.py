"""Carries the core's commands out: passes each to the part of the daemon that can do it.

This module decides nothing and holds no state of its own. Runs in the daemon's loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from streamerd.reading.fetches import Fetches
from streamerd.reading.proofs import Proofs
from streamerd.reading.runs import Runs
from streamerd.reading.sources import Sources
from streamerd.service.answers import Answers
from streamerd.service.shards import Shards
from streamerd.service.slabs import Slabs
from streamerd.service.views import Events, ModelView
from streamerd.state import commands, events
from streamerd.state.events import ShardKey
from streamerd.workers import jobs
from streamerd.workers.in_daemon.environments import Environments
from streamerd.workers.in_daemon.supervisor import Workers


class Service:
    """Carries out the commands of each turn, then drops whatever the core has forgotten.

    Args:
        model: the loads that the core knows.
        posted: takes the event that a prefetch is done.
        shards: the backings of the shards.
        slabs: makes and removes slabs.
        answers: tells clients what was decided.
        sources: the descriptors that local shards are read through.
        fetches: makes the reads, and knows how fast shards arrive.
        runs: has blocks backed and read.
        proofs: has adopted blocks proven.
        environments: the environments that loads' clients sent.
        workers: the workers, which keep environments.
    """

    def __init__(
        self,
        model: ModelView,
        posted: Events,
        shards: Shards,
        slabs: Slabs,
        answers: Answers,
        sources: Sources,
        fetches: Fetches,
        runs: Runs,
        proofs: Proofs,
        environments: Environments,
        workers: Workers,
    ) -> None:
        self._model = model
        self._events = posted
        self._shards = shards
        self._slabs = slabs
        self._answers = answers
        self._sources = sources
        self._fetches = fetches
        self._runs = runs
        self._proofs = proofs
        self._environments = environments
        self._workers = workers

    def carry_out(self, decided: Sequence[commands.AnyCommand]) -> None:
        """Carry out the commands of one turn."""
        for command in decided:
            self._carry_out(command)
        self._runs.after_turn()
        self._shards.after_turn()
        if len(self._environments) > len(self._model.loads):
            self._environments.keep_only(self._model.loads)
        for digest in self._environments.take_gone():
            self._forget(digest)

    def _carry_out(self, command: commands.AnyCommand) -> None:
        match command:
            case commands.FetchBlock():
                self._runs.add(command)
            case commands.Announce(load, ranges):
                self._answers.announce(load, ranges)
            case commands.ReleaseBlocks():
                self._slabs.release(command)
            case commands.CreateSlab(shard, size_bytes):
                self._slabs.create(shard, size_bytes)
            case commands.RemoveSlab(shard):
                self._remove_slab(shard)
            case commands.ReplaceSlab():
                self._slabs.replace(command)
            case commands.ProveBlocks(shard, start, stop):
                self._proofs.prove(shard, start, stop)
            case commands.CloseSource(shard):
                self._sources.close(shard)
            case commands.Admit():
                self._answers.admit(command)
            case commands.ReportWaiting():
                self._answers.report_waiting(command)
            case commands.FailShard():
                self._answers.fail(command)
            case commands.AskCredentials(load):
                self._answers.ask_credentials(load)
            case commands.Reject():
                self._answers.reject(command)
            case commands.Finish(load):
                self._events.post(events.LoadClosed(self._events.now_s, load))
            case _:
                assert_never(command)

    def _remove_slab(self, shard: ShardKey) -> None:
        self._slabs.remove(shard)
        self._shards.slab_removed(shard)
        self._fetches.forget_rate(shard)

    def _forget(self, digest: str) -> None:
        """Have workers close the readers of an environment that no load has any more."""
        self._workers.broadcast(lambda job: jobs.Forget(job, digest), lambda: None)
