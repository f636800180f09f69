"""Kills without warning, at seeded random points: a daemon, a worker or a client is killed while
loads run.

Owns the driver. One to three client processes load at once under a quarter of the memory that the
checkpoints need, and killed processes are started again. A client that was not killed must end with
every byte right, and at the end nothing may be left. Part of `make soak`; `test_kills.py` makes a
few kills.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from tests.hostile.leftovers import descendants, evict_all, leftovers, serving, status_of
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, Daemons, daemons
from tests.support.loader import LoaderProcess, LoaderServer, digest, loader_server, start_together
from tests.support.waiting import eventually

MODELS: Final = (("a", 3, 40), ("b", 2, 56), ("c", 4, 24))
"""Folder, files, and blocks of each file."""
LIMIT_BLOCKS: Final = sum(shards * blocks for _, shards, blocks in MODELS) // 4
FLAGS: Final = (f"--memory-limit={LIMIT_BLOCKS * BLOCK}", "--workers=2", "--heartbeat-s=1")
MOST_PAUSE_S: Final = 0.4
"""Seconds between kills; a load takes about this long."""
RECONNECT_S: Final = 20.0
SETTLE_S: Final = 20.0
_VICTIMS: Final = ("daemon", "worker", "worker", "client", "client")


@dataclass(slots=True)
class Tally:
    """The outcome of one run."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    right: int = 0
    modes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not (self.wrong or self.failed or self.left)

    def __str__(self) -> str:
        killed = ", ".join(f"{count} {name}s" for name, count in sorted(self.kills.items()))
        modes = ", ".join(f"{count} {name}" for name, count in sorted(self.modes.items()))
        text = (
            f"seed {self.seed}: {self.kills.total()} kills ({killed}); loads right {self.right} "
            f"({modes}), wrong {len(self.wrong)}, failed {len(self.failed)}; "
            f"leaks {len(self.left)}"
        )
        return "\n  ".join((text, *self.wrong, *self.failed, *self.left))


@dataclass(slots=True)
class _Rank:
    """One client process of a round."""

    process: LoaderProcess
    model: str
    round: int
    killed: bool = False


class Killing:
    """One run: a daemon, its clients, and the plan of kills."""

    def __init__(self, seed: int, folder: Path, made: Daemons, loaders: LoaderServer) -> None:
        self.tally = Tally(seed)
        self._random = Random(seed)
        self._folder = folder
        self._loaders = loaders
        self._expected = {name: _written(folder, name, *size) for name, *size in MODELS}
        self._daemon = made.start(*FLAGS)
        self._round = 0

    def run(self, kills: int, say: Callable[[str], None] = lambda _text: None) -> Tally:
        """Kill this many processes; returns the outcome."""
        told = 0
        while self.tally.kills.total() < kills:
            self._run_round(min(self._random.randint(1, 4), kills - self.tally.kills.total()))
            if self.tally.kills.total() >= told + max(1, kills // 10):
                told = self.tally.kills.total()
                say(str(self.tally).splitlines()[0])
        self._look_at_the_end()
        return self.tally

    # --- a round --------------------------------------------------------------------------------

    def _run_round(self, kills: int) -> None:
        self._round += 1
        with contextlib.ExitStack() as kept:
            ranks = [self._rank(kept) for _ in range(self._random.randint(1, 3))]
            start_together([rank.process for rank in ranks])
            for _ in range(kills):
                self._pause(ranks)
                self._kill(ranks)
            for rank in ranks:
                self._judge(rank)

    def _rank(self, kept: contextlib.ExitStack) -> _Rank:
        model = self._random.choice(list(self._expected))
        process = self._loaders.start(
            self._daemon.socket,
            str(self._folder / model),
            label=f"rank of round {self._round}",
            hold=self._random.random() < 0.5,
            memory_limit=self._random.choice((-1, 0, 8 * BLOCK)),
            reconnect_s=RECONNECT_S,
            connect_s=RECONNECT_S,
        )
        kept.enter_context(process)
        return _Rank(process, model, self._round)

    def _pause(self, ranks: Sequence[_Rank]) -> None:
        """Let the clients load for a random while, or until one of them is done."""
        channels = [rank.process.channel for rank in ranks if not rank.killed]
        select.select(channels, [], [], self._random.uniform(0, MOST_PAUSE_S))

    def _kill(self, ranks: Sequence[_Rank]) -> None:
        victim = self._random.choice(_VICTIMS)
        living = [rank for rank in ranks if not rank.killed]
        if victim == "client" and not living:
            victim = "worker"
        self.tally.kills[victim] += 1
        if victim == "daemon":
            self._daemon.kill()
            self._daemon.start()
        elif victim == "client":
            chosen = self._random.choice(living)
            chosen.killed = True
            with contextlib.suppress(ProcessLookupError):  # the client had already ended
                chosen.process.signal(signal.SIGKILL)
        else:
            self._kill_worker()

    def _kill_worker(self) -> None:
        pids = eventually(lambda: status_of(self._daemon)["workers"], SETTLE_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._random.choice(pids), signal.SIGKILL)

    def _judge(self, rank: _Rank) -> None:
        what = f"round {rank.round}, {rank.model}, pid {rank.process.pid}"
        if rank.killed:
            rank.process.await_end()
            return
        try:
            found = rank.process.result()
        except (AssertionError, TimeoutError) as error:
            self.tally.failed.append(f"{what}: {error or type(error).__name__}")
            return
        if found["digest"] != self._expected[rank.model]:
            self.tally.wrong.append(f"{what}, {found['mode']}")
        else:
            self.tally.right += 1
        self.tally.modes[found["mode"]] += 1

    # --- the end --------------------------------------------------------------------------------

    def _look_at_the_end(self) -> None:
        daemon, left = self._daemon, self.tally.left
        left += _settled(lambda: leftovers(daemon, self._folder))
        evict_all(daemon)
        left += _settled(lambda: [f"/dev/shm/{name}" for name in daemon.segments()])
        processes = [daemon.pid, *descendants(daemon.pid)]
        if daemon.stop():
            left.append("the daemon did not leave in order")
        left += _settled(lambda: [f"process {pid}" for pid in processes if _lives(pid)])
        left += _settled(lambda: [f"daemon {pid}" for pid in serving(daemon.socket)])
        left += [path for path in (daemon.socket, f"{daemon.socket}.fd") if os.path.exists(path)]


def _written(folder: Path, name: str, shards: int, blocks: int) -> str:
    from safetensors.numpy import load_file

    files = write_model(folder / name, shards=shards, blocks=blocks, seed=ord(name))
    return digest(
        {key: array.tobytes() for file in files for key, array in load_file(file).items()}
    )


def _settled(look: Callable[[], list[str]]) -> list[str]:
    """The leftovers that are still there after a while in which they may go."""
    with contextlib.suppress(AssertionError):
        eventually(lambda: not look(), SETTLE_S)
    return look()


def _lives(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def run(seed: int, kills: int, say: Callable[[str], None] = lambda _text: None) -> Tally:
    """Make a run with a daemon and folder of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="strd-kills-") as folder,
        loader_server() as loaders,
        daemons() as made,
    ):
        return Killing(seed, Path(folder), made, loaders).run(kills, say)
