"""A crowd of clients at one daemon with a quarter of the memory: opens, closes, evictions, pins.

Owns the driver: several processes with several clients each, some of which are killed. The other
clients must read right bytes, and at the end the ledger must agree with /dev/shm. `crowd_member.py`
has the actions of a client. Part of `make soak`; `test_crowd.py` runs a small crowd.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from safetensors.numpy import load_file

from streamer_client.client import daemon_client
from streamer_client.contract.errors import StreamerError
from tests.hostile.crowd_member import Orders, Report, decode_report, encode_orders
from tests.hostile.leftovers import evict_all, leftovers, status_of
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, REPOSITORY, DaemonProcess, daemons
from tests.support.loader import digest
from tests.support.waiting import eventually

MODELS: Final = 10
SHARDS, BLOCKS = 2, 16
LIMIT_BYTES: Final = MODELS * SHARDS * BLOCKS * BLOCK // 4
SMALL: Final = "small"
"""The checkpoint that is pinned; a client that is killed takes no pin away."""
MEMBER_S: Final = 400.0
SETTLE_S: Final = 30.0


@dataclass(slots=True)
class Outcome:
    """The outcome of one run."""

    seed: int
    clients: int
    killed: int
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not (self.wrong or self.failed or self.left)

    def __str__(self) -> str:
        did = ", ".join(f"{count} {name}" for name, count in sorted(self.done.items()))
        text = (
            f"seed {self.seed}: {self.clients} clients, of which {self.killed} were killed; {did}; "
            f"wrong {len(self.wrong)}, failed {len(self.failed)}, left over {len(self.left)}"
        )
        return "\n  ".join((text, *self.wrong, *self.failed, *self.left))


def run(seed: int, processes: int, threads: int, actions: int, killed: int) -> Outcome:
    """Let this many processes of this many clients act, and kill some of the processes."""
    random = Random(seed)
    outcome = Outcome(seed, processes * threads, killed * threads)
    with tempfile.TemporaryDirectory(prefix="strd-crowd-") as name, daemons() as made:
        folder = Path(name)
        expected = _written(folder)
        daemon = made.start(f"--memory-limit={LIMIT_BYTES}", "--workers=2", "--lag-s=5")
        orders = [
            Orders(daemon.socket, name, seed * 1000 + number, threads, actions, expected, SMALL)
            for number in range(processes)
        ]
        with _members(orders) as members:
            for victim in random.sample(members, killed):
                _await_some(daemon, victim)
                victim.kill()
            for number, member in enumerate(members):
                _take(outcome, number, member)
        outcome.left += _leftovers(daemon, folder)
    return outcome


def _written(folder: Path) -> dict[str, str]:
    sizes = {f"model-{number}": (SHARDS, BLOCKS) for number in range(MODELS)} | {SMALL: (1, 4)}
    expected = {}
    for place, (name, (shards, blocks)) in enumerate(sizes.items()):
        files = write_model(folder / name, shards=shards, blocks=blocks, seed=place)
        read = {key: array.tobytes() for file in files for key, array in load_file(file).items()}
        expected[name] = digest(read)
    return expected


@contextlib.contextmanager
def _members(orders: list[Orders]) -> Iterator[list[subprocess.Popen[bytes]]]:
    members = []
    try:
        for order in orders:
            member = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.crowd_member"],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            members.append(member)
            assert member.stdin is not None
            member.stdin.write(encode_orders(order))
            member.stdin.close()
        yield members
    finally:
        for member in members:
            member.kill()
            member.wait()
            if member.stdout is not None:
                member.stdout.close()


def _await_some(daemon: DaemonProcess, member: subprocess.Popen[bytes]) -> None:
    """Wait until a member holds leases, so that its death leaves some."""

    def holds() -> bool:
        rows = [row for source in status_of(daemon)["sources"] for row in source["shards"]]
        return any(lease["pid"] == member.pid for row in rows for lease in row["leases"])

    eventually(lambda: member.poll() is not None or holds(), MEMBER_S)


def _take(outcome: Outcome, number: int, member: subprocess.Popen[bytes]) -> None:
    assert member.stdout is not None
    said = member.stdout.read()
    code = member.wait(MEMBER_S)
    if code == -9:
        return
    if code or not said:
        outcome.failed.append(f"process {number} ended with {code}")
        return
    report: Report = decode_report(said)
    outcome.done.update(report.done)
    outcome.wrong += [f"process {number}: {text}" for text in report.wrong]
    outcome.failed += [f"process {number}: {text}" for text in report.failed]


def _leftovers(daemon: DaemonProcess, folder: Path) -> list[str]:
    with (
        daemon_client(daemon.socket, reconnect_s=0) as client,
        contextlib.suppress(StreamerError),  # raised if the file is not in memory
    ):
        client.admin.unpin(str(folder / SMALL))
    with contextlib.suppress(AssertionError):
        eventually(lambda: not leftovers(daemon, folder), SETTLE_S)
    left = leftovers(daemon, folder)
    evict_all(daemon)
    return left
