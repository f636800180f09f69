"""Hostile messages and packets against a real daemon that has few descriptors.

Owns the episodes, and the good client beside them. Each episode is a peer of its own that does one
kind of wrong. The good client must be answered, and the time that this takes is reported. The
daemon may not end, hang or grow. Part of `make soak`; `test_daemon.py` runs some thousand messages.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, Self

import zmq

from streamer_client.client import daemon_client
from streamer_client.contract.codec import encode
from streamer_client.contract.handover import Files, Got, HandedFile, encode_packet
from streamer_client.contract.limits import MAX_MESSAGE_BYTES, MAX_QUEUED_BYTES
from streamer_client.contract.messages import GetConfig, Goodbye, Open
from streamer_client.contract.options import LoadOptions
from tests.hostile.kernel_accounts import peak_bytes
from tests.hostile.leftovers import leftovers
from tests.hostile.mutations import frames, sequences
from tests.hostile.peer import NO_TOKEN, WRONG_TOKEN, Ended, Hung, Peer
from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess, daemons
from tests.support.every_message import CLIENT
from tests.support.waiting import eventually

DESCRIPTORS: Final = 1024
QUIET: Final = 200
"""The number of questions that the good client asks before the first episode."""
ASK_EVERY_S: Final = 0.02
MOST_GROWTH_BYTES: Final = 2 * MAX_QUEUED_BYTES + (64 << 20)
"""Bytes by which the daemon may grow: twice the bytes that one peer may leave unread, as one peer
may be dropped while the next comes, and the memory that decoding takes for a moment."""
SETTLE_S: Final = 60.0
LONG_LABEL: Final = 20 << 20
MESSAGES: Final = 300
"""The most messages of one episode."""


_GOODBYE: Final = encode(Goodbye())


@dataclass(slots=True)
class Outcome:
    """The outcome of one run."""

    seed: int
    sent: Counter[str] = field(default_factory=Counter)
    ended_by_daemon: int = 0
    quiet_s: list[float] = field(default_factory=list)
    beside_s: list[float] = field(default_factory=list)
    grown_bytes: int = 0
    log_bytes: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not self.wrong

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.sent.items()))
        quiet, beside = statistics.median(self.quiet_s), statistics.median(self.beside_s)
        text = (
            f"seed {self.seed}: {self.sent.total():,} sent ({kinds}); {self.ended_by_daemon} peers "
            f"disconnected; a good client's status took {quiet * 1e3:.1f} ms alone, "
            f"{beside * 1e3:.1f} ms beside them (ratio {beside / quiet:.1f}, longest "
            f"{max(self.beside_s) * 1e3:.0f} ms); memory grew {self.grown_bytes >> 20} MiB, "
            f"log {self.log_bytes >> 10} KiB"
        )
        return "\n  ".join((text, *self.wrong))


class Fuzz:
    """One run against one daemon."""

    def __init__(self, seed: int, daemon: DaemonProcess, folder: Path) -> None:
        self.outcome = Outcome(seed)
        self._daemon = daemon
        self._folder = folder
        self._random = Random(seed)
        self._mutated = frames(seed, CLIENT)
        self._sequences = sequences(seed)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._files = write_model(folder / "bait", shards=3, blocks=2)
        (self._good,) = write_model(folder / "good", shards=1, blocks=4)
        self._episodes: tuple[tuple[Callable[[Peer], None], int], ...] = (
            (self._mutate, 12),
            (self._disorder, 6),
            (self._pack, 6),
            (self._never_read, 1),
            (self._exceed, 1),
        )

    def run(self, count: int, say: Callable[[str], None] = lambda _text: None) -> Outcome:
        """Send this many messages and packets; returns the outcome."""
        outcome, told = self.outcome, 0
        with _Watch(self._daemon) as watch:
            outcome.quiet_s = [watch.ask() for _ in range(QUIET)]
            before_bytes = peak_bytes(self._daemon.pid)
            with watch.asking():
                while outcome.sent.total() < count and not outcome.wrong:
                    self._run_episode()
                    if outcome.sent.total() >= told + max(1, count // 10):
                        told = outcome.sent.total()
                        say(f"{told:,} of {count:,}, {peak_bytes(self._daemon.pid) >> 20} MiB")
            outcome.beside_s, failure = watch.beside_s, watch.failure
            if failure:
                outcome.wrong.append(f"the good client: {failure}")
        outcome.grown_bytes = peak_bytes(self._daemon.pid) - before_bytes
        self._context.destroy(linger=0)
        self._judge()
        return outcome

    def _run_episode(self) -> None:
        episodes, weights = zip(*self._episodes, strict=True)
        (episode,) = self._random.choices(episodes, weights)
        try:
            with Peer(self._context, self._daemon.socket) as peer:
                if self._random.random() < 0.8:
                    peer.greet()
                episode(peer)
                peer.hear()
        except Ended:
            self.outcome.ended_by_daemon += 1
        except (Hung, OSError) as error:
            kind = episode.__name__.strip("_")
            self.outcome.wrong.append(f"{kind}: {type(error).__name__}: {error}")
        if self._daemon.process.poll() is not None:
            self.outcome.wrong.append(f"{episode.__name__}: the daemon ended")

    # --- episodes -------------------------------------------------------------------------------

    def _mutate(self, peer: Peer) -> None:
        """Send messages with changed bytes or values, some of them with no token or another one."""
        for _ in range(self._random.randint(1, MESSAGES)):
            body = next(self._mutated)
            if body == _GOODBYE and self._random.random() < 0.9:
                continue  # otherwise a Goodbye would end nearly every episode
            token = self._random.choices((None, WRONG_TOKEN, NO_TOKEN), (8, 1, 1))[0]
            self.outcome.sent["mutated"] += 1
            peer.say(body, token)
        peer.hear()

    def _disorder(self, peer: Peer) -> None:
        """Send valid messages in any order, some of them about files that were handed over."""
        self._hand_over(peer, 1)
        for _ in range(MESSAGES // 10):
            for body in next(self._sequences):
                if body == _GOODBYE and self._random.random() < 0.9:
                    continue
                self.outcome.sent["in wrong order"] += 1
                peer.say(body)
            if self._random.random() < 0.2:
                transfer, load = self._random.randint(0, 3), self._random.randint(0, 3)
                hold = self._random.random() < 0.5
                self.outcome.sent["in wrong order"] += 1
                options = LoadOptions(hold=hold)
                peer.say(encode(Open(1, load, "/bait", transfer, options=options)))
            peer.hear()

    def _hand_over(self, peer: Peer, transfer: int) -> None:
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(file.open("rb")) for file in self._files]
            told = tuple(HandedFile(str(file), False) for file in self._files)
            peer.pack(encode_packet(Files(transfer, told)), [file.fileno() for file in files])

    def _pack(self, peer: Peer) -> None:
        """Send packets with wrong descriptors, in wrong numbers, too long, or of wrong bytes."""
        for _ in range(self._random.randint(1, MESSAGES // 5)):
            self.outcome.sent["packets"] += 1
            with self._descriptors(self._random.randint(0, 70)) as descriptors:
                peer.pack(self._packet(len(descriptors)), descriptors)
            if self._random.random() < 0.9:
                peer.hear()

    def _packet(self, descriptors: int) -> bytes:
        random = self._random
        right = random.random() < 0.8
        count = descriptors if right else random.randint(0, 100)
        name = random.choice(("/bait", "", "a\nERROR forged", "\x1b[2J", "x" * 500))
        files = tuple(HandedFile(name, False) for _ in range(count))
        transfer = random.choice((1, 2, 3, 0, -1, 2**63 - 1, random.randint(1, 40)))
        data = encode_packet(Files(transfer, files))
        choice = random.random()
        if choice < 0.02:
            return data + bytes(random.choice((1, 70 << 10)))
        if choice < 0.05:
            return data[: random.randint(0, len(data))] or b"\0"
        if choice < 0.07:
            return encode_packet(Got(random.randint(0, 3)))
        if choice < 0.09:
            return random.randbytes(random.randint(1, 100))
        return data

    @contextlib.contextmanager
    def _descriptors(self, count: int) -> Iterator[list[int]]:
        kinds = (self._readable, _path_only, _folder, _socket, _pipe, _device, _writable)
        made = []
        try:
            for _ in range(count):
                kind = self._random.choices(kinds, (60, 1, 1, 1, 1, 1, 1))[0]
                made.append(kind(self._files[0]))
            yield made
        finally:
            for descriptor in made:
                os.close(descriptor)

    def _readable(self, _file: Path) -> int:
        return os.open(self._random.choice(self._files), os.O_RDONLY)

    def _never_read(self, peer: Peer) -> None:
        """Ask questions without end, and read no answer."""
        for number in range(3 * MESSAGES):
            self.outcome.sent["never read"] += 1
            peer.say(encode(GetConfig(number)))

    def _exceed(self, peer: Peer) -> None:
        """Send messages and packets that are longer than any may be."""
        self.outcome.sent["too long"] += 3
        peer.greet("l" * (MAX_MESSAGE_BYTES - 100))
        peer.say(b"\xdd\x00\x10\x00\x00" + b"\x90" * (MAX_MESSAGE_BYTES - 5))
        peer.greet("l" * LONG_LABEL)

    # --- the end --------------------------------------------------------------------------------

    def _judge(self) -> None:
        outcome, daemon = self.outcome, self._daemon
        if outcome.grown_bytes > MOST_GROWTH_BYTES:
            outcome.wrong.append(f"memory grew by more than {MOST_GROWTH_BYTES >> 20} MiB")
        outcome.log_bytes = daemon.log_path.stat().st_size
        if "defect" in daemon.log or "Traceback" in daemon.log:
            outcome.wrong.append("the log tells of a defect")
        if "\nERROR forged" in daemon.log:
            outcome.wrong.append("a name forged a line of the log")
        if outcome.wrong:
            return  # the daemon may not answer any more
        with contextlib.suppress(AssertionError):
            eventually(lambda: not leftovers(daemon, self._folder), SETTLE_S)
        outcome.wrong += leftovers(daemon, self._folder)
        with daemon_client(daemon.socket, reconnect_s=0) as client:
            with client.open(self._good.parent) as checkpoint:
                if sum(tensor.numel() for _, tensor in checkpoint.tensors()) == 0:
                    outcome.wrong.append("nothing is loaded afterwards")
            client.admin.evict()


class _Watch:
    """The good client, and the time that its questions took."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._client = daemon_client(daemon.socket, label="good", reconnect_s=0)
        self.beside_s: list[float] = []
        self.failure = ""
        self._over = threading.Event()

    def ask(self) -> float:
        began_s = time.monotonic()
        self._client.admin.status()
        return time.monotonic() - began_s

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        thread = threading.Thread(target=self._ask_on)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _ask_on(self) -> None:
        try:
            while not self._over.wait(ASK_EVERY_S) or not self.beside_s:
                self.beside_s.append(self.ask())
        except Exception as error:  # noqa: BLE001  told, and judged by the run
            self.failure = f"{type(error).__name__}: {error}"
            self.beside_s.append(float("nan"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._client.close()


def _path_only(file: Path) -> int:
    return os.open(file, os.O_PATH)


def _folder(file: Path) -> int:
    return os.open(file.parent, os.O_RDONLY)


def _socket(_file: Path) -> int:
    return socket.socket(socket.AF_UNIX).detach()


def _pipe(_file: Path) -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


def _device(_file: Path) -> int:
    return os.open("/dev/zero", os.O_RDONLY)


def _writable(file: Path) -> int:
    return os.open(file, os.O_WRONLY)


def run(seed: int, count: int, say: Callable[[str], None] = lambda _text: None) -> Outcome:
    """Make a run with a daemon and folder of its own."""
    with tempfile.TemporaryDirectory(prefix="strd-fuzz-") as folder, daemons() as made:
        daemon = made.start(before=("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"))
        return Fuzz(seed, daemon, Path(folder)).run(count, say)
