"""The client's end of the descriptor socket: the greeting, files handed over, slabs received.

Owns one connection, and the files of handovers that are under way. A caller's thread opens it; the
wire's thread serves it from then on, and nothing here waits. The daemon takes the end of this
connection for the end of the client. So a forked child closes its copy at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from streamer_client.connecting.packet_socket import AGAIN_S, peer_of, receive_packet
from streamer_client.connecting.trust import check_peer, check_socket_place, is_named
from streamer_client.contract.errors import (
    ConfigError,
    DaemonUnavailable,
    ProtocolMismatch,
    RequestRefused,
    StreamerError,
    error_from_code,
)
from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    MAX_PACKET_BYTES,
    Files,
    FromDaemon,
    Got,
    Greeting,
    HandedFile,
    Packet,
    Refused,
    Slabs,
    Taken,
    decode_from_daemon,
    encode_packet,
)
from streamer_client.contract.messages import PROTOCOL
from streamer_client.contract.printable import printable
from streamer_client.contract.socket import MAX_SOCKET_PATH_BYTES, descriptor_socket
from streamer_client.storage.local_files import LocalFile

BATCH_NAME_BYTES: Final = MAX_PACKET_BYTES * 3 // 4
"""How many bytes of file names one packet takes; msgpack's own bytes need the rest."""

_living: weakref.WeakSet[DescriptorLink] = weakref.WeakSet()


class Handover:
    """Files on their way to the daemon, as one transfer.

    Args:
        number: number of the transfer.
        files: the opened files; their owner keeps them open until `done` was called.
        done: called in the wire's thread: with None once the daemon has all of them, else with
            the error that ended the handover.
    """

    def __init__(
        self,
        number: int,
        files: Sequence[LocalFile],
        done: Callable[[StreamerError | None], None],
    ) -> None:
        self.number = number
        self.left = deque(files)
        self.done = done

    def next_batch(self) -> tuple[Files, list[int], int]:
        """The next packet, its descriptors, and how many files these belong to."""
        names: list[HandedFile] = []
        descriptors: list[int] = []
        name_bytes = 0
        for file in self.left:
            fds = [file.fd] if file.direct_fd is None else [file.fd, file.direct_fd]
            name_bytes += len(os.fsencode(file.uri))
            full = len(descriptors) + len(fds) > BATCH_DESCRIPTORS
            if names and (full or name_bytes > BATCH_NAME_BYTES):
                break
            names.append(HandedFile(file.uri, len(fds) > 1))
            descriptors += fds
        return Files(self.number, tuple(names)), descriptors, len(names)


class DescriptorLink:
    """A greeted connection to the descriptor socket. Made by `DescriptorLink.to`."""

    greeting: Greeting

    def __init__(self, connection: socket.socket, socket_path: str) -> None:
        self._connection = connection
        self._socket_path = socket_path
        self._handovers: deque[Handover] = deque()
        self._sent: int | None = None
        """How many files of the first handover are sent and not acknowledged yet."""
        self._replies: deque[Packet] = deque()
        self._retry_at: float | None = None
        _living.add(self)

    @classmethod
    def to(cls, socket_path: str, timeout_s: float) -> DescriptorLink:
        """Connect to the daemon at a control socket, and check whether it may be trusted.

        Args:
            socket_path: path of the control socket; the descriptor socket lies beside it.
            timeout_s: how long the daemon may take to greet.

        Raises:
            ConfigError: the path is longer than a socket's can be.
            UntrustedSocket: whoever listens, or could listen there, must not be trusted.
            RequestRefused: this user may not open the socket, or the daemon refuses.
            DaemonUnavailable: there is no socket, or nobody listens.
            ProtocolMismatch: the daemon speaks another version.
        """
        if len(os.fsencode(socket_path)) > MAX_SOCKET_PATH_BYTES:
            raise ConfigError(
                f"the socket path {socket_path} has more than {MAX_SOCKET_PATH_BYTES} bytes; "
                "choose a shorter one with --socket or STREAMERD_SOCKET"
            )
        named = is_named(socket_path, os.environ, os.geteuid())
        check_socket_place(socket_path, named=named)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link = cls(connection, socket_path)
        try:
            connection.settimeout(timeout_s)
            _connect(connection, socket_path)
            check_peer(peer_of(connection).uid, socket_path, named=named)
            link.greeting = link._greeted()
            connection.setblocking(False)
        except BaseException:
            link.close()
            raise
        return link

    def _greeted(self) -> Greeting:
        try:
            data = self._connection.recv(MAX_PACKET_BYTES)
        except TimeoutError as error:
            raise DaemonUnavailable(
                f"the daemon at {self._socket_path} takes connections and does not greet; see its "
                "log, or restart it: systemctl restart streamerd"
            ) from error
        except OSError as error:
            raise self._gone() from error
        if not data:
            raise self._gone()
        packet = decode_from_daemon(data)
        if isinstance(packet, Refused):
            raise error_from_code(packet.code, packet.message)
        if not isinstance(packet, Greeting) or packet.protocol != PROTOCOL:
            theirs = type(packet).__name__
            if isinstance(packet, Greeting):
                theirs = f"{packet.protocol} (streamerd {printable(packet.version, 40)})"
            raise ProtocolMismatch(
                f"the daemon at {self._socket_path} speaks protocol {theirs}, this client "
                f"{PROTOCOL}; install the same version of streamerd on both sides"
            )
        return packet

    def _gone(self) -> DaemonUnavailable:
        return DaemonUnavailable(f"the daemon at {self._socket_path} closed the connection or died")

    # --- any thread ------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._connection.fileno()

    def wait_for_end(self, timeout_ms: int) -> None:
        """Wait until the daemon has closed its end, as it does once it has read `Goodbye`.

        If this end closed first, the daemon might learn of that before it read the last messages on
        the control socket. It would then no longer know from whom these messages came.
        """
        poller = select.poll()
        poller.register(self._connection, select.POLLRDHUP)
        poller.poll(timeout_ms)

    def close(self) -> None:
        """End the connection, and with it every lease. Idempotent; safe in finalizers."""
        self._connection.close()

    # --- the wire's thread -----------------------------------------------------------------------

    @property
    def due_s(self) -> float | None:
        """Seconds until `flush` must be called again; None if nothing waits to be sent."""
        if self._retry_at is None:
            return None
        return max(0.0, self._retry_at - time.monotonic())

    def begin(self, handover: Handover) -> None:
        """Send the files of a handover, once those of earlier handovers are sent."""
        self._handovers.append(handover)
        self.flush()

    def withdraw(self, handover: Handover) -> None:
        """Send no more of a handover; the daemon still acknowledges what was sent. Idempotent."""
        if handover not in self._handovers:
            return
        first = handover is self._handovers[0]
        while len(handover.left) > ((self._sent or 0) if first else 0):
            handover.left.pop()
        if not handover.left:
            self._handovers.remove(handover)
            handover.done(None)
            self.flush()

    def flush(self) -> None:
        """Send as many files as can be sent now."""
        self._retry_at = None
        try:
            while self._replies:
                self._connection.send(encode_packet(self._replies[0]))
                self._replies.popleft()
            if self._handovers and self._sent is None:
                self._send_batch(self._handovers[0])
        except BlockingIOError:
            self._retry_at = time.monotonic() + AGAIN_S
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise self._gone() from error
            self._retry_at = time.monotonic() + AGAIN_S

    def _send_batch(self, handover: Handover) -> None:
        packet, descriptors, count = handover.next_batch()
        socket.send_fds(self._connection, [encode_packet(packet)], descriptors)
        self._sent = count

    def receive(self, slabs: Callable[[int, tuple[int, ...], list[int]], None]) -> None:
        """Read everything that has come.

        Args:
            slabs: called with a load, its shards, and the descriptors of their slabs; the callee
                owns the descriptors.

        Raises:
            DaemonUnavailable: the connection ended, or descriptors were withheld.
            ProtocolMismatch: a packet is not of this version.
        """
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data, descriptors, flags = receive_packet(self._connection)
                except ConnectionError as error:
                    raise self._gone() from error
                if not data and not descriptors:
                    raise self._gone()
                self._handle(data, descriptors, flags, slabs)

    def _handle(
        self,
        data: bytes,
        descriptors: list[int],
        flags: int,
        slabs: Callable[[int, tuple[int, ...], list[int]], None],
    ) -> None:
        try:
            packet = self._decoded(data, descriptors, flags)
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        match packet:
            case Slabs(load, shards):
                slabs(load, shards, descriptors)
                self._replies.append(Got(load))
                self.flush()
            case Taken(transfer):
                self._taken(transfer)
            case Refused(code, message, transfer):
                self._refused(error_from_code(code, message), transfer)
            case Greeting():
                raise ProtocolMismatch("the daemon greeted twice")

    def _decoded(self, data: bytes, descriptors: list[int], flags: int) -> FromDaemon:
        if flags & socket.MSG_CTRUNC:
            raise DaemonUnavailable(
                f"descriptors of the daemon at {self._socket_path} were withheld on their way: "
                "this process has no room for more (raise the limit of open files, `ulimit -n`), "
                "or a security module such as SELinux forbids passing them"
            )
        if flags & socket.MSG_TRUNC:
            raise ProtocolMismatch("the daemon sent a packet that is too long")
        packet = decode_from_daemon(data)
        due = len(packet.shards) if isinstance(packet, Slabs) else 0
        if len(descriptors) != due:
            raise ProtocolMismatch(f"{len(descriptors)} descriptors came where {due} were told")
        return packet

    def _taken(self, transfer: int) -> None:
        if not self._handovers or self._sent is None or self._handovers[0].number != transfer:
            raise ProtocolMismatch(
                f"the daemon took files of transfer {transfer}, which were not sent"
            )
        handover, sent = self._handovers[0], self._sent
        self._sent = None
        for _ in range(sent):
            handover.left.popleft()
        if not handover.left:
            self._handovers.popleft()
            handover.done(None)
        self.flush()

    def _refused(self, error: StreamerError, transfer: int) -> None:
        if not transfer:
            raise DaemonUnavailable(str(error)) from error
        if self._handovers and self._handovers[0].number == transfer:
            self._sent = None
            self._handovers.popleft().done(error)
            self.flush()

    def lose(self, error: StreamerError) -> None:
        """Tell the owner of each handover that is under way that the wire has ended."""
        handovers, self._handovers = self._handovers, deque()
        for handover in handovers:
            handover.done(error)


def _connect(connection: socket.socket, socket_path: str) -> None:
    asked = descriptor_socket(socket_path)
    try:
        connection.connect(asked)
    except PermissionError as error:
        raise RequestRefused(
            f"{socket_path} may not be opened by user {os.getuid()}; add the user to the "
            "daemon's group, or start a daemon of your own: streamerd"
        ) from error
    except OSError as error:
        raise DaemonUnavailable(
            f"no daemon answers at {socket_path} ({asked}: {error.strerror or error}); "
            "start one with `systemctl start streamerd` or `streamerd`"
        ) from error


def _close_in_child() -> None:
    for link in list(_living):
        link.close()


os.register_at_fork(after_in_child=_close_in_child)
