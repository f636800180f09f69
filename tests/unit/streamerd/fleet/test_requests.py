from __future__ import annotations

import socket

import pytest

from streamerd.fleet.serve.requests import (
    HEAD_S,
    MOST_FIELDS,
    MOST_HEAD_BYTES,
    BadRequest,
    Head,
    Heads,
    parse_head,
)

GET = b"GET /v1/gpus/0 HTTP/1.1\r\nRange: bytes=0-1\r\n\r\n"


def test_requests_on_one_connection_come_one_after_the_other() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(GET + GET[:10])
        heads = Heads(ours)
        expected = Head("GET", "/v1/gpus/0", {"range": "bytes=0-1"})
        assert heads.next() == expected
        theirs.sendall(GET[10:])
        assert heads.next() == expected
        theirs.close()
        assert heads.next() is None


@pytest.mark.parametrize(
    "head",
    [
        b"GET /",
        b"GET / HTTP/1.0",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1\r\nno colon",
        b"GET / HTTP/1.1\r\n: empty",
        b"GET / HTTP/1.1\r\nRange : bytes=0-1",
        b"GET / HTTP/1.1\r\n folded: 1",
        b"GET / HTTP/1.1\r\na: 1\r\nA: 2",
        b"GET / HTTP/1.1\r\na: \x01",
        b"GET / HTTP/1.1\r\na: \xff",
        b"GET / HTTP/1.1\r\nContent-Length: 5",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked",
        b"GET / HTTP/1.1" + b"".join(b"\r\nf%d: 1" % i for i in range(MOST_FIELDS + 1)),
    ],
)
def test_what_is_malformed_is_refused(head: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_head(head)


def test_a_head_that_never_ends_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"GET / HTTP/1.1\r\n" + b"a" * MOST_HEAD_BYTES)
        with pytest.raises(BadRequest):
            Heads(ours).next()


def test_a_head_that_trickles_ends_in_time() -> None:
    ours, theirs = socket.socketpair()
    times = iter([0.0, 1.0, HEAD_S + 1.0])
    with ours, theirs:
        theirs.sendall(b"GET / HTTP/1.1\r\n")
        heads = Heads(ours, lambda: next(times))
        theirs.sendall(b"a: b\r\n")
        with pytest.raises(TimeoutError):
            heads.next()


def test_a_peer_that_leaves_within_a_head_is_told_apart_from_one_that_is_done() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(b"GET /")
        theirs.close()
        with pytest.raises(BadRequest):
            Heads(ours).next()
