"""Sessions: the kernel says who a client is, from its connection's beginning to the end of
connection or process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator

import pytest
from tests.support.in_loop import in_loop, until

from streamer_client.contract.handover import TOKEN_BYTES
from streamerd.control.sessions import Session, Sessions


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@in_loop
async def test_the_kernel_says_who_it_is() -> None:
    gone: list[Session] = []
    sessions = Sessions(gone.append)
    with pair() as (ours, _):
        session = sessions.begin(ours)
        assert (session.pid, session.uid, session.gid) == (os.getpid(), os.getuid(), os.getgid())
        assert not session.greeted
        sessions.greet(session, 7, "rank 0", 99)
        assert (session.greeted, session.pid) == (True, os.getpid())
        assert (session.label, session.world) == ("rank 0", 99)
        sessions.end(session, "test")


@in_loop
async def test_what_a_client_says_of_itself_counts_only_where_the_kernel_says_nothing() -> None:
    sessions = Sessions(lambda _session: None)
    with pair() as (ours, _):
        session = sessions.begin(ours)
        # The kernel gives 0 for a client in a pid namespace that the daemon does not see.
        session.pid = 0
        sessions.greet(session, 7, "", 0)
        assert session.pid == 7
        sessions.end(session, "test")


@in_loop
async def test_a_token_is_its_sessions_until_that_ends() -> None:
    gone: list[Session] = []
    sessions = Sessions(gone.append)
    with pair() as (one, _), pair() as (two, _):
        first, second = sessions.begin(one), sessions.begin(two)
        assert len({first.token, second.token, first.proof, second.proof}) == 4
        assert {len(first.token), len(first.proof)} == {TOKEN_BYTES}
        assert sessions.presented(first.token) is first
        assert sessions.presented(first.proof) is None
        assert sessions.presented(b"") is None
        sessions.end(first, "test")
        assert sessions.presented(first.token) is None
        assert sessions.presented(second.token) is second
        assert gone == [first]
        sessions.close()


@in_loop
async def test_an_end_is_told_once() -> None:
    gone: list[Session] = []
    sessions = Sessions(gone.append)
    with pair() as (ours, theirs):
        session = sessions.begin(ours)
        sessions.end(session, "test")
        sessions.end(session, "again")
        assert gone == [session]
        assert sessions.get(session.name) is None
        assert theirs.recv(1) == b""


@in_loop
async def test_sessions_of_a_user_are_counted() -> None:
    sessions = Sessions(lambda _session: None)
    with pair() as (one, _), pair() as (two, _), pair() as (three, _):
        first, second, third = (sessions.begin(each) for each in (one, two, three))
        third.uid = first.uid + 1
        assert (sessions.of_user(first.uid), sessions.of_user(third.uid)) == (2, 1)
        sessions.end(second, "test")
        assert (sessions.of_user(first.uid), len(sessions)) == (1, 2)
        assert list(sessions) == [first, third]
        sessions.close()


@in_loop
async def test_the_daemons_end_takes_nothing_back() -> None:
    gone: list[Session] = []
    sessions = Sessions(gone.append)
    with pair() as (ours, theirs):
        sessions.begin(ours)
        sessions.close()
        assert gone == []
        assert len(sessions) == 0
        assert theirs.recv(1) == b""


@in_loop
async def test_a_process_that_ends_ends_its_session_whoever_holds_the_connection() -> None:
    """A forked child that still has the connection does not count."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind("")  # the kernel chooses an abstract name
        listening.listen()
        client = os.fork()
        if client == 0:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.connect(listening.getsockname())
            signal.pause()
            os._exit(0)
        accepted, _ = listening.accept()
    with accepted:
        gone: list[Session] = []
        sessions = Sessions(gone.append)
        session = sessions.begin(accepted)
        assert session.pid == client
        if session.pidfd < 0:
            pytest.skip("this kernel gives no descriptor of a process")
        kept = os.dup(accepted.fileno())
        os.kill(client, signal.SIGKILL)
        await until(lambda: gone == [session])
        os.close(kept)
        await until(lambda: os.waitpid(client, os.WNOHANG)[0])


@in_loop
async def test_a_connection_whose_other_end_is_gone_is_still_somebodys() -> None:
    sessions = Sessions(lambda _session: None)
    with pair() as (ours, theirs):
        theirs.close()
        session = sessions.begin(ours)
        assert session.pid == os.getpid()
        sessions.close()
