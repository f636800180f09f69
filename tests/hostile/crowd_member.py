"""One process of a crowd: a few clients, a thread for each, that do random things.

It reads its orders from stdin and writes its report to stdout, both as JSON. It is a process of its
own, which `crowd.py` starts.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec

from streamer_client.client import Client, daemon_client
from streamer_client.contract.errors import DaemonUnavailable, StreamerError
from tests.support.loader import digest

if TYPE_CHECKING:
    import torch

RECONNECT_S: Final = 20.0
_LIMITS: Final = (-1, 0, 512 << 10)


class Orders(msgspec.Struct, frozen=True):
    """The orders of one process."""

    socket: str
    folder: str
    seed: int
    clients: int
    actions: int
    """The number of actions of each client."""
    expected: dict[str, str]
    """For each checkpoint, the digest of its tensors."""
    pinned: str
    """The checkpoint that may be pinned."""


class Report(msgspec.Struct):
    """The outcome of one process."""

    done: Counter[str]
    wrong: list[str]
    failed: list[str]


def encode_orders(orders: Orders) -> bytes:
    return msgspec.json.encode(orders)


def decode_report(data: bytes) -> Report:
    told = msgspec.json.decode(data)
    return Report(Counter(told["done"]), told["wrong"], told["failed"])


class _Member:
    """One client; its thread runs `act`."""

    def __init__(self, orders: Orders, number: int, report: Report) -> None:
        self._orders = orders
        self._random = Random(orders.seed * 100 + number)
        self._label = f"client {number} of seed {orders.seed}"
        self._report = report

    def act(self) -> None:
        actions = (self._read, self._read, self._read, self._read_some, self._control)
        with daemon_client(self._orders.socket, self._label, RECONNECT_S) as client:
            for number in range(self._orders.actions):
                try:
                    self._random.choice(actions)(client)
                except StreamerError as error:
                    self._fail(number, error)

    def try_to_act(self) -> None:
        try:
            self.act()
        except Exception as error:  # noqa: BLE001  told to the driver, which judges it
            self._fail(-1, error)

    def _fail(self, number: int, error: Exception) -> None:
        where = " < ".join(frame.name for frame in traceback.extract_tb(error.__traceback__)[::-1])
        self._report.failed.append(
            f"{self._label}, action {number}: {type(error).__name__}: {error} (in {where})"
        )

    def _chosen(self) -> str:
        return self._random.choice(list(self._orders.expected))

    def _place(self, name: str) -> Path:
        return Path(self._orders.folder) / name

    def _read(self, client: Client) -> None:
        name = self._chosen()
        hold, limit = self._random.random() < 0.5, self._random.choice(_LIMITS)
        with client.open(self._place(name), hold=hold, memory_limit=limit) as checkpoint:
            found = {key: _bytes(tensor) for key, tensor in checkpoint.tensors()}
            mode = checkpoint.stats.mode
        self._report.done[f"loads ({mode})"] += 1
        if digest(found) != self._orders.expected[name]:
            self._report.wrong.append(f"{self._label}: {name}, {mode}, hold={hold}, {limit}")

    def _read_some(self, client: Client) -> None:
        with client.open(self._place(self._chosen()), hold=self._random.random() < 0.5) as opened:
            for number, _ in enumerate(opened.tensors()):
                if number == self._random.randint(0, 5):
                    break
        self._report.done["loads given up"] += 1

    def _control(self, client: Client) -> None:
        """Evict, pin, unpin or prefetch; a refusal is an answer too."""
        admin, name = client.admin, self._chosen()
        kind = self._random.choice(("evict", "evict all", "pin", "unpin", "prefetch"))
        try:
            match kind:
                case "evict":
                    admin.evict(str(self._place(name)))
                case "evict all":
                    admin.evict()
                case "pin":
                    admin.pin(str(self._place(self._orders.pinned)))
                case "unpin":
                    admin.unpin(str(self._place(self._orders.pinned)))
                case _:
                    admin.prefetch(str(self._place(name)), limit_bytes=1 << 20)
        except DaemonUnavailable:
            raise
        except StreamerError as error:
            kind = f"{kind} refused ({error.code})"
        self._report.done[kind] += 1


def _bytes(tensor: torch.Tensor) -> bytes:
    import torch  # imported here, so that the driver need not import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def main() -> int:
    """Carry out the orders from stdin; returns the exit code."""
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    report = Report(Counter(), [], [])
    members = [_Member(orders, number, report) for number in range(orders.clients)]
    threads = [threading.Thread(target=member.try_to_act) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.buffer.write(msgspec.json.encode(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
