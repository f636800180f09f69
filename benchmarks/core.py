"""What the daemon's loop costs a block: core, service and codec, without sockets and workers.

Eight ranks load one large checkpoint. The real service and the real core run; in place of sockets
and of processes stand encoders and decoders of their messages, so that every byte which would
travel is made and read. Only the daemon's part is on the clock, not the ranks' and the workers'.
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
from collections.abc import Callable, Iterable
from unittest import mock

import msgspec

from streamer_client.contract import messages
from streamer_client.contract.layout import BlockRange
from streamer_client.storage.contract import StoredShard
from streamerd import service as service_module
from streamerd.config import load_settings
from streamerd.control.peers import Peers
from streamerd.control.socket import ControlSocket
from streamerd.requests import Requests
from streamerd.service import Service
from streamerd.workers import jobs
from streamerd.workers.supervisor import Fleet, OnAnswer

RANKS = 8
BLOCK_BYTES = 8 << 20
TARGET_BLOCKS_PER_S = 3750
"""30 GB/s."""
TARGET_SHARE = 0.2
CHUNKS = 40
"""A load is judged by the median of so many stretches."""
SCENARIOS = {"fits": (2.0, True), "eighth": (0.125, False)}
"""Memory limit over checkpoint size, and whether the ranks hold it whole."""
REPORT = ".bench/core.json"


class PaperFleet(Fleet):
    """Workers of paper: jobs are encoded and kept until the benchmark answers them."""

    def __init__(self, workers: int, threads: int) -> None:
        super().__init__(workers, threads)
        self.submitted: deque[tuple[jobs.AnyJob, OnAnswer]] = deque()
        self.frames = jobs.FrameBuffer()
        self.sent_bytes = 0

    def submit(self, job: jobs.AnyJob, on_answer: OnAnswer) -> None:
        self.sent_bytes += len(jobs.frame(job))
        self.submitted.append((job, on_answer))

    def broadcast(
        self, make_job: Callable[[int], jobs.AnyJob], on_done: Callable[[], None]
    ) -> None:
        self.sent_bytes += len(jobs.frame(make_job(self.next_job())))
        on_done()

    def receive(self, data: bytes, callbacks: dict[int, OnAnswer]) -> None:
        """What the channel's protocol does with the bytes of some answers."""
        for body in self.frames.feed(data):
            answer = jobs.answer_decoder.decode(body)
            callbacks.pop(answer.job)(answer)


class PaperSocket(ControlSocket):
    """A control socket of paper: encodes what is sent and keeps it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def send(self, peer: str, message: messages.Message) -> bool:
        self.sent.append((peer, messages.encode(message)))
        return True


class Figures(msgspec.Struct):
    """The outcome of one scenario."""

    name: str
    blocks: int
    blocks_a_turn: int
    cpu_us_a_block: float
    best_us_a_block: float
    """Of the quietest tenth of the load: what neighbours of this machine did not slow down."""
    core_share: float
    """Of one core, at the target rate, by `cpu_us_a_block`."""
    messages_a_block: float


class Node:
    """A daemon of paper with its ranks."""

    def __init__(self, shards: tuple[StoredShard, ...], limit_bytes: int, slots: int) -> None:
        overrides = {"memory_limit": str(limit_bytes), "socket": "/nowhere/control.sock"}
        with mock.patch("streamerd.config._check"):  # no mount holds a checkpoint this large
            settings, _ = load_settings(overrides, {}, os.devnull)
        self.shards = shards
        self.fleet = PaperFleet(1, slots // 2)
        self.socket = PaperSocket()
        self.service = Service(settings, self.fleet)
        self.requests = Requests(self.service, {})
        self.service.attach(self.socket, Peers(self.requests.gone, 1e9))
        self.ranks: list[str] = []
        self.inbox: deque[tuple[str, bytes]] = deque()
        self.consuming = False
        self.costs_us: list[float] = []
        """Of each turn that fetched blocks, for each of them."""
        self._owed_s = 0.0
        self.traffic = 0
        self.left = sum(-(-shard.size_bytes // BLOCK_BYTES) for shard in shards)

    def join(self) -> str:
        """One more client says hello."""
        peer = f"{len(self.ranks):010x}"
        self.ranks.append(peer)
        hello = messages.Hello(0, messages.PROTOCOL, "0", 1, 0, f"rank {len(self.ranks) - 1}")
        self.requests.receive(peer, 0, hello)
        self.socket.sent.clear()
        return peer

    def open(self, peer: str, *, hold: bool) -> float:
        """Seconds from a request's bytes to the answer's, resolving on a worker left out."""
        frame = messages.encode(messages.Open(1, 1, "/models/large", hold=hold))
        seconds = self._timed(lambda: self._receive([(peer, frame)]))
        while not any(isinstance(job, jobs.Resolve) for job, _ in self.fleet.submitted):
            raise RuntimeError("an open resolves its source")
        resolve, on_answer = next(
            pair for pair in self.fleet.submitted if isinstance(pair[0], jobs.Resolve)
        )
        self.fleet.submitted.remove((resolve, on_answer))
        data = jobs.frame(jobs.Resolved(resolve.job, self.shards))
        callbacks = {resolve.job: on_answer}
        seconds += self._timed(lambda: self._answer(data, callbacks))
        return seconds

    def _receive(self, frames: Iterable[tuple[str, bytes]]) -> None:
        for peer, frame in frames:
            self.requests.receive(peer, 1, messages.decode_client(frame))

    def _answer(self, data: bytes, callbacks: dict[int, OnAnswer]) -> None:
        self.fleet.receive(data, callbacks)
        self.service.turn()

    def _timed(self, part: Callable[[], None]) -> float:
        start = time.thread_time()
        part()
        return time.thread_time() - start

    def turn(self, blocks: int) -> None:
        """One turn of the loop: some blocks arrive, with what ranks consumed since the last one."""
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
        """Answers to the oldest `blocks` fetches, and to all else before them."""
        frames: list[bytes] = []
        callbacks: dict[int, OnAnswer] = {}
        while self.fleet.submitted and blocks:
            job, on_answer = self.fleet.submitted.popleft()
            callbacks[job.job] = on_answer
            if isinstance(job, jobs.Fetch):
                frames.append(jobs.frame(jobs.Fetched(job.job, 0x0123456789ABCDEF, 0)))
                blocks -= 1
                self.left -= 1
            else:
                frames.append(jobs.frame(jobs.Finished(job.job)))
        return b"".join(frames), callbacks

    def _ranks_work(self) -> list[tuple[str, bytes]]:
        """Each rank consumes what it was granted in one of the last turns."""
        self.traffic += len(self.socket.sent)
        for peer, frame in self.socket.sent:
            granted = messages.decode_daemon(frame)
            if self.consuming and isinstance(granted, (messages.Granted, messages.Opened)):
                ranges: tuple[BlockRange, ...] = (
                    granted.ranges if isinstance(granted, messages.Granted) else granted.granted
                )
                if ranges:
                    consumed = messages.Consumed(granted.load, ranges)
                    self.inbox.append((peer, messages.encode(consumed)))
        self.socket.sent.clear()
        # The last rank's messages lag one turn, so that ranks are not in step.
        count = max(0, len(self.inbox) - 1) if self.left else len(self.inbox)
        return [self.inbox.popleft() for _ in range(count)]


def checkpoint(blocks: int, shard_blocks: int) -> tuple[StoredShard, ...]:
    """A checkpoint's files, of about 5 GB each."""
    return tuple(
        StoredShard(
            f"/models/large/model-{first // shard_blocks + 1:05d}-of-00140.safetensors",
            min(shard_blocks, blocks - first) * BLOCK_BYTES - 1000,
            f"file:64768:{1000 + first}:{shard_blocks * BLOCK_BYTES}:1763800000000000000",
        )
        for first in range(0, blocks, shard_blocks)
    )


async def load(name: str, node: Node, blocks: int, batch: int, *, hold: bool) -> Figures:
    """All ranks load the checkpoint at once."""
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
    """Milliseconds of opening a resident checkpoint, one after the other."""
    found = []
    for _ in range(repeats):
        found.append(1e3 * node.open(node.join(), hold=True))
        answers = [messages.decode_daemon(frame) for _, frame in node.socket.sent]
        node.socket.sent.clear()
        opened = [answer for answer in answers if isinstance(answer, messages.Opened)]
        whole = sum(stop - start for _, start, stop in opened[0].granted)
        if whole != sum(-(-shard.size_bytes // BLOCK_BYTES) for shard in node.shards):
            raise RuntimeError(f"{whole} blocks were granted at once")
    return found


async def measure(options: argparse.Namespace) -> dict[str, object]:
    """Everything that was asked for, printed on the way."""
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
        mock.patch.object(service_module, "create_slab"),
        mock.patch.object(service_module, "remove_slab"),
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
