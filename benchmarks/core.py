"""What the daemon's loop costs a block: all its parts and the codec, without sockets and workers.

Eight ranks load one large checkpoint of local files. The daemon's real parts run; in
place of sockets and of processes stand encoders and decoders of their messages, so that every byte
which would travel is made and read; descriptors are numbers that nobody opened. Only the daemon's
part is on the clock, not the ranks' and the workers'.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import os
import pstats
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from unittest import mock

import msgspec

from benchmarks.paper_parts import PaperDescriptors, PaperSessions, PaperSocket, PaperWorkers
from streamer_client.contract import messages
from streamer_client.contract.checks import check
from streamer_client.contract.codec import decode_client, decode_daemon, encode
from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    Files,
    HandedFile,
    decode_from_client,
    encode_packet,
)
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.options import LoadOptions
from streamer_client.storage.contract import StoredShard
from streamerd.control.sessions import Session, Sessions
from streamerd.parts import Parts
from streamerd.service import slabs as slabs_module
from streamerd.service.closing import Closing
from streamerd.settings.config import load_settings
from streamerd.workers import frames, jobs
from streamerd.workers.in_daemon.supervisor import OnAnswer

RANKS = 8
BLOCK_BYTES = 8 << 20
TARGET_BLOCKS_PER_S = 3750
"""Blocks of 8 MiB at 30 GB/s."""
TARGET_SHARE = 0.2
CHUNKS = 40
"""Into how many stretches a load is divided; their median judges it."""
SCENARIOS = {"fits": (2.0, True), "eighth": (0.125, False)}
"""The memory limit over the checkpoint's size, and whether the ranks hold the checkpoint whole."""
REPORT = ".bench/core.json"


class Figures(msgspec.Struct):
    """The outcome of one scenario."""

    name: str
    blocks: int
    blocks_a_turn: int
    cpu_us_a_block: float
    best_us_a_block: float
    """The time of the quietest tenth of the load, least slowed down by neighbours."""
    core_share: float
    """The share of one core at the target rate, by `cpu_us_a_block`."""
    messages_a_block: float


def _discard_nothing(closing: Closing, uid: int, descriptors: Sequence[int]) -> None:
    """Stand for `Closing.discard`."""


class Node:
    """A daemon with its ranks, without sockets and processes."""

    def __init__(self, shards: tuple[StoredShard, ...], limit_bytes: int, slots: int) -> None:
        overrides = {"memory_limit": str(limit_bytes), "socket": "/nowhere/control.sock"}
        with mock.patch(
            "streamerd.settings.config._check"
        ):  # no real mount has room for such a checkpoint
            settings, _ = load_settings(overrides, {}, os.devnull)
        self.shards = shards
        self.workers = PaperWorkers(1, slots // 2)
        self.socket = PaperSocket()
        self.sessions: PaperSessions

        def sessions(gone: Callable[[Session], None]) -> Sessions:
            self.sessions = PaperSessions(gone)
            return self.sessions

        # Nobody opened the numbers that it would close. A mock's calls would be measured; a
        # function is not.
        with mock.patch.object(Closing, "discard", _discard_nothing):
            self.parts = Parts(
                settings,
                self.workers,
                "0" * 8,
                dict,
                sessions,
                lambda _path, _sessions: self.socket,
                lambda *_parts: PaperDescriptors(),
            )
        self.inbox: deque[tuple[Session, bytes]] = deque()
        self.consuming = False
        self.costs_us: list[float] = []
        """For each turn that fetched blocks, the time for each of its blocks."""
        self._owed_s = 0.0
        self.traffic = 0
        self.left = sum(-(-shard.size_bytes // BLOCK_BYTES) for shard in shards)

    def join(self) -> Session:
        """Let one more client say hello."""
        rank = len(self.sessions)
        session = self.sessions.join(rank + 1)
        hello = messages.Hello(0, messages.PROTOCOL, "0", 1, f"rank {rank}")
        self.parts.requests.receive(session, hello)
        self.socket.sent.clear()
        return session

    def open(self, session: Session, *, hold: bool) -> float:
        """Seconds from the first packet's bytes to the answer's, without the workers' time."""
        seconds = 0.0
        for first in range(0, len(self.shards), BATCH_DESCRIPTORS // 2):
            batch = self.shards[first : first + BATCH_DESCRIPTORS // 2]
            files = Files(1, tuple(HandedFile(shard.uri, direct=True) for shard in batch))
            data = encode_packet(files)
            descriptors = list(range(10_000, 10_000 + 2 * len(batch)))
            seconds += self._timed(lambda: self._take(session, data, descriptors))  # noqa: B023
        seconds += self._examine()
        request = messages.Open(1, 1, "/models/large", 1, options=LoadOptions(hold=hold))
        frame = encode(request)
        seconds += self._timed(lambda: self._receive([(session, frame)]))
        return seconds + self._timed(self.parts.turns.turn)

    def _take(self, session: Session, data: bytes, descriptors: list[int]) -> None:
        packet = decode_from_client(data)
        if isinstance(packet, Files):
            self.parts.handovers.take(session, packet, descriptors)

    def _examine(self) -> float:
        """Answer handed-over files; return the seconds of the loop."""
        of = {shard.uri: shard for shard in self.shards}
        asked = [pair for pair in self.workers.submitted if isinstance(pair[0], jobs.Examine)]
        sent: list[bytes] = []
        callbacks: dict[int, OnAnswer] = {}
        for job, on_answer in asked:
            self.workers.submitted.remove((job, on_answer))
            files = job.files if isinstance(job, jobs.Examine) else ()
            found = (jobs.ExaminedFile(of[file.uri], 1, direct_ok=True) for file in files)
            sent.append(frames.frame(jobs.Examined(job.job, tuple(found))))
            callbacks[job.job] = on_answer
        return self._timed(lambda: self._answer(b"".join(sent), callbacks))

    def _receive(self, frames: Iterable[tuple[Session, bytes]]) -> None:
        for session, frame in frames:
            message = decode_client(frame)
            check(message)
            self.parts.requests.receive(session, message)

    def _answer(self, data: bytes, callbacks: dict[int, OnAnswer]) -> None:
        self.workers.receive(data, callbacks)
        self.parts.turns.turn()

    def _timed(self, part: Callable[[], None]) -> float:
        start = time.thread_time()
        part()
        return time.thread_time() - start

    def turn(self, blocks: int) -> None:
        """Make one turn of the loop: some blocks arrive, and ranks have consumed others."""
        left = self.left
        data, callbacks = self._workers_work(blocks)
        frames = self._ranks_work()
        self.traffic += len(frames) + len(callbacks)

        def daemon() -> None:
            self._receive(frames)
            self._answer(data, callbacks)

        seconds = self._timed(daemon)
        self._owed_s += seconds
        if left != self.left:
            self.costs_us.append(1e6 * self._owed_s / (left - self.left))
            self._owed_s = 0.0

    def _workers_work(self, blocks: int) -> tuple[bytes, dict[int, OnAnswer]]:
        """Answers to the oldest `blocks` fetches, and to all jobs before them."""
        sent: list[bytes] = []
        callbacks: dict[int, OnAnswer] = {}
        while self.workers.submitted and blocks:
            job, on_answer = self.workers.submitted.popleft()
            callbacks[job.job] = on_answer
            if isinstance(job, jobs.Fetch):
                fetched = jobs.Fetched(job.job, 0x0123456789ABCDEF, 0, ctime_ns=1)
                sent.append(frames.frame(fetched))
                blocks -= 1
                self.left -= 1
            elif isinstance(job, jobs.Compare):
                sent.append(frames.frame(jobs.Compared(job.job, (), ())))
            else:
                sent.append(frames.frame(jobs.Finished(job.job)))
        return b"".join(sent), callbacks

    def _ranks_work(self) -> list[tuple[Session, bytes]]:
        """Let each rank consume the blocks that it was granted in one of the last turns."""
        self.traffic += len(self.socket.sent)
        for name, frame in self.socket.sent:
            session = self.sessions.get(name)
            granted = decode_daemon(frame)
            if self.consuming and isinstance(granted, (messages.Granted, messages.Opened)):
                ranges: tuple[BlockRange, ...] = (
                    granted.ranges if isinstance(granted, messages.Granted) else granted.granted
                )
                if ranges and session is not None:
                    consumed = messages.Consumed(granted.load, ranges)
                    self.inbox.append((session, encode(consumed)))
        self.socket.sent.clear()
        # The last rank's messages lag one turn, so that ranks are not in step.
        count = max(0, len(self.inbox) - 1) if self.left else len(self.inbox)
        return [self.inbox.popleft() for _ in range(count)]


def checkpoint(blocks: int, shard_blocks: int) -> tuple[StoredShard, ...]:
    """The files of a checkpoint, of about 5 GB each."""
    return tuple(
        StoredShard(
            f"/models/large/model-{first // shard_blocks + 1:05d}-of-00140.safetensors",
            min(shard_blocks, blocks - first) * BLOCK_BYTES - 1000,
            f"file:64768:{1000 + first}:{shard_blocks * BLOCK_BYTES}:1763800000000000000",
        )
        for first in range(0, blocks, shard_blocks)
    )


async def load(name: str, node: Node, blocks: int, batch: int, *, hold: bool) -> Figures:
    """Let all ranks load the checkpoint at once."""
    node.consuming = not hold
    for _ in range(RANKS):
        node.open(node.join(), hold=hold)
    gc.collect()
    idle = 0
    while node.left and idle < 100:
        left = node.left
        node.turn(batch)
        await asyncio.sleep(0)
        idle = idle + 1 if node.left == left else 0
    if node.left:
        raise RuntimeError(f"{name}: stuck with {node.left} blocks to go")
    size = max(1, len(node.costs_us) // CHUNKS)
    starts = range(0, len(node.costs_us), size)
    means = [statistics.mean(node.costs_us[start : start + size]) for start in starts]
    cost_us = statistics.median(means)
    best_us = sorted(means)[len(means) // 10]
    share = cost_us * TARGET_BLOCKS_PER_S / 1e6
    return Figures(name, blocks, batch, cost_us, best_us, share, node.traffic / blocks)


def opening(node: Node, repeats: int) -> list[float]:
    """Open a resident checkpoint several times; return the milliseconds of each."""
    found = []
    for _ in range(repeats):
        found.append(1e3 * node.open(node.join(), hold=True))
        answers = [decode_daemon(frame) for _, frame in node.socket.sent]
        node.socket.sent.clear()
        opened = [answer for answer in answers if isinstance(answer, messages.Opened)]
        whole = sum(stop - start for _, start, stop in opened[0].granted)
        if whole != sum(-(-shard.size_bytes // BLOCK_BYTES) for shard in node.shards):
            raise RuntimeError(f"{whole} blocks were granted at once")
    return found


async def measure(options: argparse.Namespace) -> dict[str, object]:
    """Measure everything that the options ask for, and print it on the way."""
    shards = checkpoint(options.blocks, options.shard_blocks)
    total_bytes = options.blocks * BLOCK_BYTES
    rows: list[Figures] = []
    report: dict[str, object] = {}
    for batch in options.batches:
        for name in options.scenarios:
            share, hold = SCENARIOS[name]
            node = Node(shards, int(total_bytes * share), options.slots)
            row = await load(name, node, options.blocks, batch, hold=hold)
            rows.append(row)
            print(
                f"{row.name:6} {row.blocks_a_turn:3d} blocks a turn {row.cpu_us_a_block:6.1f} us a "
                f"block (quiet {row.best_us_a_block:.1f}), {row.messages_a_block:4.1f} messages "
                f"a block, {row.core_share:6.1%} of a core at {TARGET_BLOCKS_PER_S} blocks/s "
                f"(wanted {TARGET_SHARE:.0%})",
                flush=True,
            )
            if hold and batch == options.batches[-1]:
                times = opening(node, 9)
                report["open_resident_ms"] = times
                print(
                    f"opening {total_bytes / 1e9:.0f} GB resident in {len(shards)} shards: "
                    f"first {times[0]:.2f} ms, median {sorted(times)[4]:.2f} ms"
                )
    return {"loads": [msgspec.to_builtins(row) for row in rows], **report}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=87_000)
    parser.add_argument("--shard-blocks", type=int, default=620)
    parser.add_argument("--slots", type=int, default=32, help="fetches under way at once")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    options = parser.parse_args()
    profile = cProfile.Profile()
    with (
        mock.patch.object(slabs_module, "create_slab", return_value=-1),
        mock.patch.object(slabs_module, "open_readonly", return_value=-1),
        mock.patch.object(slabs_module, "remove_slab"),
    ):
        if options.profile:
            profile.enable()
        report = asyncio.run(measure(options))
        if options.profile:
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(28)
    os.makedirs(os.path.dirname(REPORT), exist_ok=True)
    with open(REPORT, "w", encoding="ascii") as file:
        json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
