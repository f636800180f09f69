"""A daemon's stand-in: a real ROUTER and real slabs, with the fetching done in one thread.

Grants within a window as the daemon does, and is harsher where that shows mistakes: a block's bytes
are in its slab only while it is granted. Before, and once it is consumed, it reads as zeros.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import posix_ipc
import zmq

from streamer_client.contract.errors import ProtocolMismatch, StreamerError
from streamer_client.contract.layout import BlockRange, block_count, block_span, slab_bytes
from streamer_client.contract.messages import (
    PROTOCOL,
    Close,
    Consumed,
    DaemonMessage,
    Failed,
    GetStatus,
    Goodbye,
    Granted,
    Heartbeat,
    Hello,
    Message,
    Open,
    Opened,
    OpenedShard,
    ReleaseShards,
    Renew,
    ShardFailed,
    Status,
    Waiting,
    Want,
    Welcome,
    decode_client,
    encode,
)
from streamer_client.contract.socket import instance_of
from streamer_client.storage.contract import Reader, StoredShard
from streamer_client.storage.registry import storage_for

_serial = itertools.count()


@dataclass
class Script:
    """How the stand-in behaves; may be changed while it runs."""

    block_bytes: int = 64 << 10
    window_blocks: int = 1_000_000
    holds: bool = True
    heartbeat_s: float = 5.0
    protocol: int = PROTOCOL
    allowed_grants: int = 1_000_000
    silent: bool = False
    refuse_open: StreamerError | None = None
    waits_first: int = 0
    fail_shards: dict[int, StreamerError] = field(default_factory=dict)
    change_identity: bool = False
    adopts: dict[str, str] = field(default_factory=dict)
    """URI to slab of an earlier daemon, whose bytes count as granted when they are wanted."""


@dataclass
class _Load:
    client: bytes
    number: int
    stored: tuple[StoredShard, ...]
    readers: list[Reader]
    slabs: list[tuple[str, int]]
    held: bool
    wanted: list[tuple[int, int]]
    granted: set[tuple[int, int]] = field(default_factory=set)


class ScriptedDaemon:
    """Serves one socket until killed or closed."""

    def __init__(self, socket_path: Path | str, script: Script | None = None) -> None:
        self.socket_path = str(socket_path)
        self.script = script or Script()
        self.received: list[Message] = []
        self.greeted: list[Hello] = []
        self._loads: dict[tuple[bytes, int], _Load] = {}
        self._slab_names: list[str] = []
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted-daemon")
        self._thread.start()
        assert self._listening.wait(10)

    # --- the test's thread -----------------------------------------------------------------------

    def kill(self) -> None:
        """Vanish without a word; the slabs stay, as after SIGKILL."""
        self._stop.set()
        self._thread.join()

    def close(self) -> None:
        self.kill()
        for load in list(self._loads.values()):
            self._end(load)
        for name in self._slab_names:
            with contextlib.suppress(posix_ipc.ExistentialError):
                posix_ipc.unlink_shared_memory(name)

    def call(self, call: Callable[[], None]) -> None:
        self._calls.put(call)

    def allow_grants(self, count: int) -> None:
        def allow() -> None:
            self.script.allowed_grants = count
            self._grant_all()

        self.call(allow)

    def seen(self, kind: type[Message]) -> list[Any]:
        return [message for message in list(self.received) if isinstance(message, kind)]

    def shared_bytes(self, uri: str) -> list[bytes]:
        """What the slab of a shard holds now, for each load that has one."""
        return [
            os.pread(fd, stored.size_bytes, 0)
            for load in list(self._loads.values())
            for stored, (_, fd) in zip(load.stored, load.slabs, strict=True)
            if stored.uri == uri
        ]

    def slabs(self) -> dict[str, str]:
        """URI to slab of all open loads."""
        return {
            stored.uri: name
            for load in self._loads.values()
            for stored, (name, _) in zip(load.stored, load.slabs, strict=True)
        }

    @property
    def open_loads(self) -> int:
        return len(self._loads)

    # --- the daemon's thread ---------------------------------------------------------------------

    def _run(self) -> None:
        context = zmq.Context()
        self._router = context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.bind(f"ipc://{self.socket_path}")
        self._listening.set()
        while not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                while True:
                    self._calls.get_nowait()()
            if self._router.poll(5):
                client, frame = self._router.recv_multipart()
                self._handle(client, frame)
        self._router.close()
        context.term()

    def _send(self, client: bytes, message: DaemonMessage) -> None:
        if not self.script.silent:
            self._router.send_multipart([client, encode(message)])

    def _handle(self, client: bytes, frame: bytes) -> None:
        try:
            message = decode_client(frame)
        except ProtocolMismatch as error:
            self._send(client, Failed(-1, error.code, str(error)))
            return
        if not isinstance(message, Heartbeat):
            self.received.append(message)
        match message:
            case Hello():
                self._welcome(client, message)
            case Heartbeat():
                self._send(client, Heartbeat())
            case Open():
                self._open(client, message)
            case Want(load=number, ranges=ranges):
                load = self._loads[client, number]
                wanted = [(s, b) for s, start, stop in ranges for b in range(start, stop)]
                load.wanted = [pair for pair in wanted if pair not in load.granted]
                self._grant(load)
            case Consumed(load=number, ranges=ranges):
                load = self._loads[client, number]
                for shard, start, stop in ranges:
                    for block in range(start, stop):
                        self._punch(load, shard, block)
                self._grant(load)
            case ReleaseShards():
                pass
            case Close(load=number):
                self._end(self._loads.pop((client, number)))
            case Goodbye():
                for key in [key for key in self._loads if key[0] == client]:
                    self._end(self._loads.pop(key))
            case GetStatus(request_id=request_id):
                self._send(client, Status(request_id, {"pid": os.getpid()}))
            case Renew():
                pass
            case _:
                self._send(client, Failed(message.request_id, "refused", "the script says no"))

    def _welcome(self, client: bytes, hello: Hello) -> None:
        self.greeted.append(hello)
        script = self.script
        instance = instance_of(self.socket_path)
        welcome = Welcome(
            hello.request_id, script.protocol, "0", os.getpid(), instance, script.heartbeat_s
        )
        self._send(client, welcome)

    def _open(self, client: bytes, message: Open) -> None:
        try:
            if self.script.refuse_open is not None:
                raise self.script.refuse_open
            uri = message.files[0] if message.files else message.source
            storage = storage_for(uri, os.environ)
            stored = storage.list_shards(message.source, message.pattern, message.files)
        except StreamerError as error:
            self._send(client, Failed(message.request_id, error.code, str(error)))
            return
        for _ in range(self.script.waits_first):
            self._send(client, Waiting(message.load, 100, 10, 50))
        load = _Load(
            client,
            message.load,
            stored,
            [storage.open(one) for one in stored],
            [self._slab(one) for one in stored],
            message.hold and self.script.holds,
            [],
        )
        self._loads[client, message.load] = load
        if message.want == "all":
            load.wanted = [
                (shard, block)
                for shard, one in enumerate(stored)
                for block in range(block_count(one.size_bytes, self.script.block_bytes))
            ]
        self._send(client, self._opened(message, load))
        self._grant(load)

    def _opened(self, message: Open, load: _Load) -> Opened:
        suffix = "-changed" if self.script.change_identity else ""
        shards = tuple(
            OpenedShard(one.uri, one.identity + suffix, name, one.size_bytes, load.held)
            for one, (name, _) in zip(load.stored, load.slabs, strict=True)
        )
        return Opened(message.request_id, message.load, self.script.block_bytes, shards, (), 0)

    def _slab(self, stored: StoredShard) -> tuple[str, int]:
        if stored.uri in self.script.adopts:
            name = self.script.adopts[stored.uri]
            return name, posix_ipc.SharedMemory(name).fd
        instance = instance_of(self.socket_path)
        name = f"/streamerd.{instance}.{os.getpid()}{next(_serial):06d}"
        memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o640)
        os.ftruncate(memory.fd, slab_bytes(stored.size_bytes))
        self._slab_names.append(name)
        return name, memory.fd

    def _grant_all(self) -> None:
        for load in list(self._loads.values()):
            self._grant(load)

    def _grant(self, load: _Load) -> None:
        """Fetch and announce as many blocks as the window takes, in the order wanted."""
        while load.wanted and self.script.allowed_grants > 0:
            if not load.held and len(load.granted) >= self.script.window_blocks:
                return
            shard, block = load.wanted.pop(0)
            if shard in self.script.fail_shards:
                error = self.script.fail_shards[shard]
                self._send(load.client, ShardFailed(load.number, shard, error.code, str(error)))
                continue
            start, stop = self._span(load, shard, block)
            buffer = bytearray(stop - start)
            load.readers[shard].readinto(memoryview(buffer), start)
            os.pwrite(load.slabs[shard][1], buffer, start)
            load.granted.add((shard, block))
            self.script.allowed_grants -= 1
            self._send(load.client, Granted(load.number, (BlockRange(shard, block, block + 1),)))

    def _punch(self, load: _Load, shard: int, block: int) -> None:
        assert (shard, block) in load.granted, f"consumed what was not granted: {shard} {block}"
        load.granted.discard((shard, block))
        start, stop = self._span(load, shard, block)
        os.pwrite(load.slabs[shard][1], bytes(stop - start), start)

    def _span(self, load: _Load, shard: int, block: int) -> tuple[int, int]:
        return block_span(block, load.stored[shard].size_bytes, self.script.block_bytes)

    def _end(self, load: _Load) -> None:
        """All leases of the load end: its blocks are punched, as pressure might do at once."""
        for shard, block in list(load.granted):
            self._punch(load, shard, block)
        for reader in load.readers:
            reader.close()
        for _, fd in load.slabs:
            os.close(fd)


@contextlib.contextmanager
def scripted_daemon(
    socket_path: Path | str, script: Script | None = None
) -> Iterator[ScriptedDaemon]:
    daemon = ScriptedDaemon(socket_path, script)
    try:
        yield daemon
    finally:
        daemon.close()
