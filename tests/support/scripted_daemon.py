"""A stand-in daemon: both sockets and real slabs, with the fetching done in one thread.

Grants within a window as the daemon does, and is harsher so that mistakes show. A block's bytes are
in its slab only while it is granted; before and after, it reads as zeros. Local files are read
through the descriptors that it was handed, and never opened by name.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import posix_ipc
import zmq

from streamer_client.contract.codec import decode_client, encode
from streamer_client.contract.errors import ProtocolMismatch, StreamerError
from streamer_client.contract.handover import TOKEN_BYTES
from streamer_client.contract.layout import BlockRange, slab_bytes
from streamer_client.contract.messages import (
    Accepted,
    Close,
    Compared,
    Comparing,
    Consumed,
    Copied,
    DaemonMessage,
    Done,
    Drop,
    Evict,
    Failed,
    GetStatus,
    Goodbye,
    Granted,
    Heartbeat,
    Hello,
    Message,
    Open,
    Opened,
    Pin,
    Prefetch,
    ReleaseShards,
    Renew,
    ShardFailed,
    Status,
    Unpin,
    Waiting,
    Want,
    Welcome,
)
from streamer_client.storage.contract import StoredShard
from tests.support.daemon_script import Script, ScriptedLoad, found_shards
from tests.support.descriptor_end import DescriptorEnd, Session

_serial = itertools.count()


class ScriptedDaemon:
    """Serves one control socket and the descriptor socket beside it until killed or closed.

    Attributes:
        received: every message but heartbeats.
        frames: all frames that came over ZeroMQ, each with its token before it.
        ends: the descriptor socket, with what arrived there.
        handed: names of the files in the transfer of each `Open`, `Prefetch`, `Evict`, ...
    """

    def __init__(self, socket_path: Path | str, script: Script | None = None) -> None:
        self.instance = secrets.token_hex(4)
        self.socket_path = str(socket_path)
        self.script = script or Script()
        self.received: list[Message] = []
        self.frames: list[bytes] = []
        self.greeted: list[Hello] = []
        self.handed: list[tuple[str, tuple[str, ...]]] = []
        self._loads: dict[tuple[bytes, int], ScriptedLoad] = {}
        self._slab_names: list[str] = []
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted-daemon")
        self._thread.start()
        assert self._listening.wait(10)

    # --- the test's thread -----------------------------------------------------------------------

    def kill(self) -> None:
        """End at once, as after SIGKILL; the slabs stay."""
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
        """The bytes of a shard's slab now, for each load that has one."""
        return [
            os.pread(fd, stored.size_bytes, 0)
            for load in list(self._loads.values())
            for stored, (_, fd) in zip(load.stored, load.slabs, strict=True)
            if stored.uri == uri
        ]

    def slabs(self) -> dict[str, str]:
        """The slab of each URI, in all open loads."""
        return {
            stored.uri: name
            for load in self._loads.values()
            for stored, (name, _) in zip(load.stored, load.slabs, strict=True)
        }

    @property
    def open_loads(self) -> int:
        return len(self._loads)

    def compare(self, error: StreamerError | None = None) -> None:
        """Say that resident bytes equal the files of all loads, or send the error."""

        def told() -> None:
            for load in list(self._loads.values()):
                if error is not None:
                    failed = ShardFailed(load.number, 0, error.code, str(error))
                    self._send(load.client, failed)
                self._send(load.client, Compared(load.number))

        self.call(told)

    def doubt(self) -> None:
        """Say that all loads are compared again; on return the message is on its way to clients."""
        sent = threading.Event()

        def told() -> None:
            for load in list(self._loads.values()):
                self._send(load.client, Comparing(load.number))
            sent.set()

        self.call(told)
        assert sent.wait(10)

    @property
    def connections(self) -> int:
        """Clients whose descriptor connection is open."""
        return len(self.ends.living)

    # --- the daemon's thread ---------------------------------------------------------------------

    def _run(self) -> None:
        context = zmq.Context()
        self._router = context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.bind(f"ipc://{self.socket_path}")
        self.ends = DescriptorEnd(self.socket_path, self.script)
        self._listening.set()
        while not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                while True:
                    self._calls.get_nowait()()
            poller = zmq.Poller()
            for source in (self._router, *self.ends.sources()):
                poller.register(source, zmq.POLLIN)
            poller.poll(5)
            with contextlib.suppress(zmq.Again):
                while True:
                    client, frame = self._router.recv_multipart(zmq.NOBLOCK)
                    self._handle(client, frame)
            for session in self.ends.serve(poller):
                self._end_loads(session)
        self.ends.close()
        self._router.close()
        context.term()

    def _send(self, client: bytes, message: DaemonMessage) -> None:
        if not self.script.silent:
            self._router.send_multipart([client, encode(message)])

    def _handle(self, client: bytes, frame: bytes) -> None:
        session = self.ends.sessions.get(frame[:TOKEN_BYTES])
        try:
            if session is None:
                raise ProtocolMismatch("the message has no token of a connection; connect first")
            message = decode_client(frame[TOKEN_BYTES:])
        except ProtocolMismatch as error:
            self._send(client, Failed(-1, error.code, str(error)))
            return
        if not isinstance(message, Heartbeat):
            self.received.append(message)
            self.frames.append(frame)
        if session.living:
            self._carry_out(client, session, message)

    def _carry_out(self, client: bytes, session: Session, message: Message) -> None:
        match message:
            case Hello():
                self._welcome(client, session, message)
            case Heartbeat():
                self._send(client, Heartbeat())
            case Open():
                self._open(client, session, message)
            case Want(load=number, ranges=ranges):
                load = self._loads[session.token, number]
                wanted = [(s, b) for s, start, stop in ranges for b in range(start, stop)]
                load.wanted = [pair for pair in wanted if pair not in load.granted]
                self._grant(load)
            case Consumed(load=number, ranges=ranges):
                load = self._loads[session.token, number]
                for shard, start, stop in ranges:
                    for block in range(start, stop):
                        self._punch(load, shard, block)
                self._grant(load)
            case Close(load=number):
                self._end(self._loads.pop((session.token, number)))
            case Drop(transfer=transfer):
                assert transfer in session.transfers, f"transfer {transfer} is dropped twice"
                session.drop(transfer)
            case Goodbye():
                self._end_loads(session)
                session.hang_up()
            case GetStatus(request_id=request_id):
                self._send(client, Status(request_id, {"pid": os.getpid()}))
            case ReleaseShards() | Renew() | Copied():
                pass
            case Prefetch() | Evict() | Pin() | Unpin():
                self._request(client, session, message)
            case _:
                raise AssertionError(f"the stand-in does not know {type(message).__name__}")

    def _request(
        self, client: bytes, session: Session, message: Prefetch | Evict | Pin | Unpin
    ) -> None:
        names = self._names(session, message)
        if self.script.refuse_requests is not None:
            error = self.script.refuse_requests
            self._send(client, Failed(message.request_id, error.code, str(error)))
        elif isinstance(message, Prefetch):
            self._send(client, Accepted(message.request_id, names, 100 * len(names)))
        else:
            self._send(client, Done(message.request_id, f"{len(names)} files"))

    def _names(
        self, session: Session, message: Open | Prefetch | Evict | Pin | Unpin
    ) -> tuple[str, ...]:
        pairs = session.transfers[message.transfer] if message.transfer else ()
        names = tuple(pair.name for pair in pairs)
        self.handed.append((type(message).__name__, names))
        return names

    def _welcome(self, client: bytes, session: Session, hello: Hello) -> None:
        self.greeted.append(hello)
        script = self.script
        welcome = Welcome(
            hello.request_id,
            script.welcome_protocol,
            script.heartbeat_s,
            session.proof if script.right_proof else bytes(TOKEN_BYTES),
        )
        self._send(client, welcome)

    def _open(self, client: bytes, session: Session, message: Open) -> None:
        try:
            self._names(session, message)
            if self.script.refuse_open is not None:
                raise self.script.refuse_open
            stored, readers = found_shards(session, message)
        except StreamerError as error:
            self._send(client, Failed(message.request_id, error.code, str(error)))
            return
        for _ in range(self.script.waits_first):
            self._send(client, Waiting(message.load, 100, 10, 50))
        load = ScriptedLoad(
            client,
            session,
            message.load,
            stored,
            readers,
            [self._slab(one) for one in stored],
            message.options.hold and self.script.holds,
            [],
        )
        self._loads[session.token, message.load] = load
        if message.want == "all":
            load.wanted = load.blocks(self.script.block_bytes)
        if self.script.slabs_first:
            self._hand_out(load)
            self.call(lambda: self._send(client, self._opened(message, load)))
            self.call(lambda: self._grant(load))
            return
        self._send(client, self._opened(message, load))
        self._hand_out(load)
        self._grant(load)

    def _opened(self, message: Open, load: ScriptedLoad) -> Opened:
        suffix = "-changed" if self.script.change_identity else ""
        shards = load.opened_shards(suffix)
        return Opened(
            message.request_id,
            message.load,
            self.script.block_bytes,
            shards,
            (),
            self.script.resident_bytes,
            compared=self.script.compared,
        )

    def _hand_out(self, load: ScriptedLoad) -> None:
        """Send read-only descriptors of all slabs that are not empty."""
        descriptors = [
            (shard, os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
            for shard, (_, fd) in enumerate(load.slabs)
            if load.stored[shard].size_bytes
        ]
        self.ends.hand_out(load.session, load.number, descriptors)

    def _slab(self, stored: StoredShard) -> tuple[str, int]:
        if stored.uri in self.script.adopts:
            name = self.script.adopts[stored.uri]
            return name, posix_ipc.SharedMemory(name).fd
        name = f"/streamerd.{self.instance}.{os.getpid()}{next(_serial):06d}"
        if self.script.memfd:
            fd = os.memfd_create(name[1:])
        else:
            fd = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600).fd
            self._slab_names.append(name)
        size_bytes = slab_bytes(stored.size_bytes)
        os.ftruncate(fd, size_bytes // 2 if self.script.short_slabs else size_bytes)
        return name, fd

    def _grant_all(self) -> None:
        for load in list(self._loads.values()):
            self._grant(load)

    def _grant(self, load: ScriptedLoad) -> None:
        """Fetch and announce as many blocks as the window takes, in the order wanted."""
        while load.wanted and self.script.allowed_grants > 0:
            if not load.held and len(load.granted) >= self.script.window_blocks:
                return
            shard, block = load.wanted.pop(0)
            if shard in self.script.fail_shards:
                error = self.script.fail_shards[shard]
                self._send(load.client, ShardFailed(load.number, shard, error.code, str(error)))
                continue
            start, stop = load.span(shard, block, self.script.block_bytes)
            buffer = bytearray(stop - start)
            load.readers[shard].readinto(memoryview(buffer), start)
            os.pwrite(load.slabs[shard][1], buffer, start)
            load.granted.add((shard, block))
            self.script.allowed_grants -= 1
            self._send(load.client, Granted(load.number, (BlockRange(shard, block, block + 1),)))

    def _punch(self, load: ScriptedLoad, shard: int, block: int) -> None:
        assert (shard, block) in load.granted, f"consumed what was not granted: {shard} {block}"
        load.granted.discard((shard, block))
        start, stop = load.span(shard, block, self.script.block_bytes)
        os.pwrite(load.slabs[shard][1], bytes(stop - start), start)

    def _end_loads(self, session: Session) -> None:
        """End everything that a client holds, as the client has left."""
        for key in [key for key in self._loads if key[0] == session.token]:
            self._end(self._loads.pop(key))

    def _end(self, load: ScriptedLoad) -> None:
        """End all leases of a load, and punch its blocks, as pressure might do at once."""
        for shard, block in list(load.granted):
            self._punch(load, shard, block)
        load.close()


@contextlib.contextmanager
def scripted_daemon(
    socket_path: Path | str, script: Script | None = None
) -> Iterator[ScriptedDaemon]:
    daemon = ScriptedDaemon(socket_path, script)
    try:
        yield daemon
    finally:
        daemon.close()
