"""A member lies: whatever it answers, the block is read from the store, within bounded time.

The members here are scripts behind real sockets. The reader that fetch workers use asks them, with
the whole of its plan.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import xxhash

from streamer_client.storage.contract import StoredShard
from streamerd.fleet.fetch.peers import NotFromPeers, Peers
from streamerd.fleet.plan.ranking import BlockName, stands_before
from streamerd.fleet.wire import CHECKSUM, HOLDS, LOADS, shard_name
from streamerd.settings.fleet import DnsMembers, Terms

BLOCK = 64 << 10
ME = "127.0.0.1:1"
BYTES = bytes(range(256)) * (BLOCK // 256)
RIGHT = f"{CHECKSUM}: {xxhash.xxh3_64_intdigest(BYTES):016x}\r\n"
SHARD = StoredShard("s3://bucket/model", 1 << 30, "an identity")
ENDED_S = 90.0

Answer = Callable[[int], Iterable[bytes]]
"""The answer to a question about the block that begins at this offset, piece by piece."""


def _said(status: str, more: str = "", length: int = 0) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{more}\r\n".encode()


def _block(start: int, more: str = RIGHT, length: int = BLOCK) -> bytes:
    ranged = f"content-range: bytes {start}-{start + BLOCK - 1}/*\r\n"
    return _said("206 Partial Content", ranged + more, length)


def _endless(piece: bytes) -> Iterator[bytes]:
    return itertools.repeat(piece)


OWNER, WAITED, CORRUPT = "owner", "waited", "corrupt"
LIES: dict[str, tuple[Answer, str]] = {
    "no-http": (lambda _: [b"\0\xff" * 99 + b"\r\n"], OWNER),
    "endless-status": (lambda _: _endless(b"H" * 4096), OWNER),
    "endless-fields": (
        lambda _: itertools.chain([b"HTTP/1.1 206 x\r\n"], _endless(b"a: b\r\n" * 99)),
        OWNER,
    ),
    "endless-continue": (lambda _: _endless(b"HTTP/1.1 100 Continue\r\n\r\n"), OWNER),
    "shorter": (lambda start: [_block(start, length=BLOCK - 1), BYTES[1:]], OWNER),
    "longer": (lambda start: [_block(start, length=1 << 60), BYTES], OWNER),
    "negative": (lambda start: [_block(start, length=-1), BYTES], OWNER),
    "chunked": (
        lambda start: [_block(start, f"{RIGHT}transfer-encoding: chunked\r\n"), b"0\r\n\r\n"],
        OWNER,
    ),
    "endless-chunks": (
        lambda start: itertools.chain(
            [_block(start, f"{RIGHT}transfer-encoding: chunked\r\n")], _endless(b"1\r\na\r\n")
        ),
        OWNER,
    ),
    "cut": (lambda start: [_block(start), BYTES[:-1]], OWNER),
    "another-block": (lambda start: [_block(start + BLOCK), BYTES], OWNER),
    "no-checksum": (lambda start: [_block(start, ""), BYTES], OWNER),
    "huge-checksum": (lambda start: [_block(start, f"{CHECKSUM}: {'f' * 999}\r\n"), BYTES], OWNER),
    "wrong-bytes": (lambda start: [_block(start), BYTES[::-1]], CORRUPT),
    "whole-object": (lambda _: [_said("200 OK", RIGHT, BLOCK), BYTES], OWNER),
    "not-there": (lambda _: [_said("404 x", f"{LOADS}: 0\r\n")], OWNER),
    "refuses": (lambda _: [_said("403 x")], OWNER),
    "always-busy": (lambda _: [_said("503 x", f"{HOLDS}: 1\r\n")], WAITED),
    "sends-to-me": (lambda _: [_said("307 x", f"location: http://{ME}/\r\n")], WAITED),
    "sends-nowhere": (lambda _: [_said("307 x", "location: \r\n")], WAITED),
    "sends-to-no-url": (lambda _: [_said("307 x", "location: http://[::1/\r\n")], OWNER),
}


class Liar:
    """A member that answers each question by its script, however often it is asked."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # raised when the listening socket is closed
            while True:
                connected, _ = self._listening.accept()
                self._open.add(connected)
                self._threads.append(threading.Thread(target=self._lie, args=(connected,)))
                self._threads[-1].start()

    def _lie(self, connected: socket.socket) -> None:
        with connected, contextlib.suppress(OSError, IndexError, ValueError):
            while asked := connected.recv(4096):
                start = int(asked.partition(b"bytes=")[2].partition(b"-")[0])
                if asked.startswith(b"HEAD"):
                    # A body follows this head. The node must not take it for the next answer.
                    connected.sendall(_said("200 OK", RIGHT, BLOCK) + BYTES)
                    continue
                for piece in self._answer(start):
                    connected.sendall(piece)

    def close(self) -> None:
        for each in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()


def _terms() -> Terms:
    members = DnsMembers(host="nodes.example", port=1)
    return Terms(
        name="test", members=members, listen=ME, certificates=None, uploads=1,
        bandwidth_limit_bytes=0, wait_s=1.0,
    )  # fmt: skip


def _reason(members: Iterable[str], asked_first: str) -> str:
    """The reason why a block is read from the store for which a member was asked first."""
    peers = Peers(_terms())
    name = shard_name(SHARD)
    starts = range(0, SHARD.size_bytes, BLOCK)
    blocks = (BlockName(name, start, start + BLOCK) for start in starts)
    block = next(each for each in blocks if stands_before(asked_first, ME, each))
    try:
        peers.know(ME, frozenset({ME, *members}))
        with pytest.raises(NotFromPeers) as caught:
            peers.reader(SHARD).readinto(memoryview(bytearray(BLOCK)), block.start)
        return caught.value.reason
    finally:
        peers.close()


def test_every_lie_ends_at_the_store() -> None:
    """All lies run at the same time, since some are ended only by a time limit."""
    with contextlib.ExitStack() as liars, ThreadPoolExecutor(len(LIES)) as pool:
        found = {}
        for name, (answer, _) in LIES.items():
            liar = Liar(answer)
            liars.callback(liar.close)
            found[name] = pool.submit(_reason, [liar.address], liar.address)
        reasons = {name: each.result(ENDED_S) for name, each in found.items()}
    assert reasons == {name: reason for name, (_, reason) in LIES.items()}


def test_nobody_is_sent_to_an_address_that_is_no_member() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        host, port = stranger.getsockname()
        liar = Liar(lambda _: [_said("307 x", f"location: http://{host}:{port}/x\r\n")])
        try:
            assert _reason([liar.address], liar.address) == WAITED
        finally:
            liar.close()
        stranger.settimeout(0)
        with pytest.raises(BlockingIOError):
            stranger.accept()


def test_two_members_that_name_each_other() -> None:
    addresses: list[str] = []

    def other(number: int) -> Answer:
        return lambda _: [_said("307 x", f"location: http://{addresses[1 - number]}/x\r\n")]

    liars = [Liar(other(number)) for number in range(2)]
    addresses += [liar.address for liar in liars]
    try:
        assert _reason(addresses, addresses[0]) == WAITED
    finally:
        for liar in liars:
            liar.close()


def test_members_that_are_no_nodes_of_the_fleet() -> None:
    """Addresses of a name, or keys in etcd, that lead to nobody or to a server of another kind."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        nobody = "127.0.0.1:9"
        assert _reason([nobody, f"{host}:{port}"], nobody) in ("owner", "silent")
