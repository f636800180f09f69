"""A client that speaks the protocol one message at a time; a test can stop anywhere in a load.

It has no thread, no torch and no heartbeats. A test decides exactly what the daemon receives on
each socket, even wrong messages, and reads only when it wants to.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec
import zmq

from streamer_client.contract.codec import decode_daemon, encode
from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    MAX_PACKET_BYTES,
    Files,
    FromDaemon,
    Got,
    Greeting,
    HandedFile,
    Packet,
    Slabs,
    Taken,
    decode_from_daemon,
    encode_packet,
)
from streamer_client.contract.messages import (
    PROTOCOL,
    Accepted,
    Compared,
    Comparing,
    DaemonMessage,
    Failed,
    Goodbye,
    Granted,
    Heartbeat,
    Hello,
    Message,
    Prefetch,
    Welcome,
)
from streamer_client.contract.socket import descriptor_socket
from streamer_client.contract.uris import is_remote
from streamer_client.storage.local_files import LocalFile, open_local
from tests.support.raw_load import RawLoad

ANSWER_S: Final = 20.0


RECEIVED_DESCRIPTORS: Final = 253


M = TypeVar("M", bound=Message)


P = TypeVar("P", bound=Packet)


class RawClient:
    """One connection to both sockets. A context manager that says goodbye.

    Args:
        socket_path: path of the control socket.
        label: the label that `status` shows.
        greet: whether to say Hello at once, and wait for the Welcome.
    """

    def __init__(self, socket_path: str, label: str = "raw", *, greet: bool = True) -> None:
        self._ids = itertools.count(1)
        self._transfers = itertools.count(1)
        self._unread: deque[DaemonMessage] = deque()
        self.loads: dict[int, RawLoad] = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.connection.settimeout(ANSWER_S)
            self.connection.connect(descriptor_socket(socket_path))
            self.greeting = self.expect_packet(Greeting)
            self.token = self.greeting.token
            """The token before each message; a test may replace it."""
            self._socket.linger = 500
            self._socket.connect(f"ipc://{socket_path}")
            if greet:
                self.welcome = self.request(self.hello(label), Welcome)
                assert self.welcome.proof == self.greeting.proof
        except BaseException:
            self.abandon()
            raise

    def hello(self, label: str = "raw", protocol: int = PROTOCOL) -> Hello:
        return Hello(self.next_id(), protocol, "0.test", os.getpid(), label)

    def next_id(self) -> int:
        return next(self._ids)

    # --- messages -------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        self.send_body(encode(message))

    def send_body(self, body: bytes) -> None:
        """Send any bytes, after the token."""
        self.send_frames(self.token + body)

    def send_frames(self, *frames: bytes) -> None:
        """Send any frames, as they are."""
        self._socket.send_multipart(frames)

    def receive(self) -> DaemonMessage:
        """The next message that is neither a heartbeat nor about a load's blocks."""
        while not self._unread:
            self.listen()
        return self._unread.popleft()

    def put_back(self, message: DaemonMessage) -> None:
        """Let `receive` return a message again."""
        self._unread.appendleft(message)

    def listen(self) -> DaemonMessage:
        """Wait for one message; one about blocks is noted with its load, others for `receive`."""
        if not self._socket.poll(int(ANSWER_S * 1000)):
            raise AssertionError(f"the daemon said nothing within {ANSWER_S} s")
        message = decode_daemon(self._socket.recv())
        match message:
            case Granted(load, ranges):
                self.loads[load].note(ranges)
            case Comparing(load):
                self.loads[load].compared = False
            case Compared(load):
                self.loads[load].compared = True
            case Heartbeat():
                pass
            case _:
                self._unread.append(message)
        return message

    def hears_nothing_for(self, seconds: float) -> bool:
        """Whether no message comes for so long, as after a message that must not be answered."""
        return not self._unread and not self._socket.poll(int(seconds * 1000))

    def expect(self, kind: type[M]) -> M:
        """The next message besides grants, which must be of this kind."""
        message = self.receive()
        assert isinstance(message, kind), f"expected {kind.__name__}, got {message}"
        return message

    def expect_also(self, kind: type[M]) -> M:
        """The next message of this kind; others before it stay unread, in order."""
        while not any(isinstance(message, kind) for message in self._unread):
            self.listen()
        message = next(message for message in self._unread if isinstance(message, kind))
        self._unread.remove(message)
        return message

    def request(self, message: Message, kind: type[M]) -> M:
        self.send(message)
        return self.expect(kind)

    def refused(self, message: Message) -> Failed:
        return self.request(message, Failed)

    # --- descriptors ----------------------------------------------------------------------------

    def send_packet(self, packet: Packet, descriptors: Sequence[int] = ()) -> None:
        self.send_bytes(encode_packet(packet), descriptors)

    def send_bytes(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send any bytes and descriptors, as one packet."""
        socket.send_fds(self.connection, [data], list(descriptors))

    def next_packet(self) -> FromDaemon:
        """The next packet; slabs are noted with their load, and acknowledged.

        Raises:
            EOFError: the daemon ended the connection.
        """
        try:
            data, descriptors, flags, _ = socket.recv_fds(
                self.connection, MAX_PACKET_BYTES, RECEIVED_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError as error:
            raise EOFError from error
        if not data and not descriptors:
            raise EOFError
        assert not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC), flags
        packet = decode_from_daemon(data)
        if isinstance(packet, Slabs):
            self._note_slabs(packet, descriptors)
            self.send_packet(Got(packet.load))
        else:
            assert not descriptors
        return packet

    def _note_slabs(self, packet: Slabs, descriptors: list[int]) -> None:
        load = self.loads.get(packet.load)
        for shard, descriptor in zip(packet.shards, descriptors, strict=True):
            if load is None or load.is_closed:
                os.close(descriptor)
            else:
                load.slabs[shard] = descriptor

    def expect_packet(self, kind: type[P]) -> P:
        """The next packet besides slabs, which must be of this kind."""
        while isinstance(packet := self.next_packet(), Slabs) and kind is not Slabs:
            pass
        assert isinstance(packet, kind), f"expected {kind.__name__}, got {packet}"
        return packet

    def has_packet(self) -> bool:
        """Whether a packet, or the end of the connection, waits to be read."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable)

    def is_ended(self) -> bool:
        """Whether the daemon ended the connection; reads all earlier packets."""
        try:
            while self.has_packet():
                self.next_packet()
        except EOFError:
            return True
        return False

    def next_transfer(self) -> int:
        return next(self._transfers)

    def hand_over(self, files: Sequence[LocalFile]) -> int:
        """Hand opened files over, batch by batch; return the transfer's number."""
        transfer, count = self.next_transfer(), 0
        size = BATCH_DESCRIPTORS // 2
        for batch in (files[at : at + size] for at in range(0, len(files), size)):
            named = [HandedFile(file.uri, file.direct_fd is not None) for file in batch]
            descriptors = [
                fd for file in batch for fd in (file.fd, file.direct_fd) if fd is not None
            ]
            self.send_packet(Files(transfer, tuple(named)), descriptors)
            count += len(named)
            assert self.expect_packet(Taken) == Taken(transfer, count)
        return transfer

    def hand_over_raw(self, *descriptors: int, direct: bool = False) -> int:
        """Hand any descriptors over, as files of invented names; return the transfer's number."""
        transfer = self.next_transfer()
        step = 1 + direct
        names = tuple(HandedFile(f"/raw/{at}", direct) for at in range(len(descriptors) // step))
        self.send_packet(Files(transfer, names), descriptors)
        assert self.expect_packet(Taken).transfer == transfer
        return transfer

    def hand_over_source(
        self, source: str, pattern: str | None = None, files: Sequence[str] | None = None
    ) -> int:
        """List and open a local source as the client library does, and hand it over.

        Raises:
            StreamerError: the source cannot be opened here.
        """
        opened = open_local(source, pattern, files)
        try:
            return self.hand_over(opened)
        finally:
            for file in opened:
                file.close()

    # --- requests -------------------------------------------------------------------------------

    def open(self, source: str, **options: object) -> RawLoad:
        """Open a load and wait until it is admitted; `options` are fields of `Open`."""
        return RawLoad(self, source, **options).opened()

    def prefetch(self, source: str, **options: object) -> Accepted:
        """Ask for a prefetch, and wait until the daemon accepts it."""
        message = Prefetch(self.next_id(), source)
        if not is_remote(source):
            options["transfer"] = self.hand_over_source(source)
        return self.request(msgspec.structs.replace(message, **options), Accepted)

    def close(self) -> None:
        self.send(Goodbye())
        self._socket.close()
        self._context.term()
        self._close_descriptors()

    def close_messages(self) -> None:
        """Close only the ZeroMQ socket, without a goodbye; the session lives on."""
        self._socket.close(linger=0)
        self._context.term()

    def abandon(self) -> None:
        """Close both sockets without a goodbye."""
        self._socket.close(linger=0)
        self._context.term()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        self.connection.close()
        for load in self.loads.values():
            load.close_slabs()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._socket.closed:
            self.close()
