"""The requests that a peer may send to the port, and the answers to all others."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from pathlib import Path

import pytest
import xxhash

from streamer_client.storage.registry import storage_for
from streamerd.fleet.serve.server import MOST_OF_ONE
from streamerd.fleet.wire import CHECKSUM, HOLDS, LOADS, NODE, WAIT, block_range, shard_name
from tests.support.certificates import Authority
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.etcd import EtcdServer
from tests.support.fleet_nodes import FLEET, SOURCE, Nodes, certificate_flags, fleet_of, read
from tests.support.guarded_store import GuardedStore
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually

MALFORMED = (
    b"\0" * 64,
    b"POST / HTTP/1.1\r\n\r\n",
    b"GET /etc/passwd HTTP/1.1\r\nRange: bytes=0-1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a" * 8192,
    b"GET /v1/" + FLEET.encode() + b"/" + b"0" * 40 + b" HTTP/1.1\r\n\r\n",
)


@pytest.fixture
def node(daemon_maker: Daemons, etcd: EtcdServer) -> DaemonProcess:
    return Nodes(daemon_maker, etcd.members_uri).together(1)[0]


def _address(node: DaemonProcess) -> tuple[str, int]:
    host, _, port = fleet_of(node)["me"].rpartition(":")
    return host, int(port)


def _asked(
    node: DaemonProcess, path: str, start: int, stop: int, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*_address(node), timeout=10)
    try:
        headers = {"Range": block_range(start, stop), NODE: "127.0.0.1:1", WAIT: "0"}
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, told, answer.read()
    finally:
        connection.close()


def test_answers_to_requests_for_blocks(
    node: DaemonProcess, store: GuardedStore, files: list[bytes]
) -> None:
    shards = storage_for(SOURCE, store.environ()).list_shards(SOURCE, None, None)
    path = f"/v1/{FLEET}/{shard_name(shards[0])}"
    assert _asked(node, path, 0, BLOCK)[:2] == (404, {"content-length": "0", LOADS: "0"})
    assert read(node, SOURCE, store.environ()) == files
    block = files[0][BLOCK : 2 * BLOCK]
    status, told, body = _asked(node, path, BLOCK, 2 * BLOCK)
    assert (status, body) == (206, block)
    assert int(told[CHECKSUM], 16) == xxhash.xxh3_64_intdigest(block)
    assert _asked(node, path, BLOCK, 2 * BLOCK, "HEAD")[:2] == (
        200,
        {"content-length": "0", CHECKSUM: told[CHECKSUM]},
    )
    size = len(files[0])
    last = size - (size % BLOCK or BLOCK)
    assert _asked(node, path, last, size)[2] == files[0][last:]
    for start, stop in (
        (0, BLOCK - 1),
        (1, BLOCK),
        (0, 2 * BLOCK),
        (last, size + 1),
        (1 << 40, 1 << 41),
    ):
        assert _asked(node, path, start, stop)[0] == 404
    assert _asked(node, path.replace(FLEET, "other"), 0, BLOCK)[0] == 404


def test_a_block_that_comes_from_the_store_is_told(
    node: DaemonProcess, store: GuardedStore, files: list[bytes]
) -> None:
    shards = storage_for(SOURCE, store.environ()).list_shards(SOURCE, None, None)
    path = f"/v1/{FLEET}/{shard_name(shards[0])}"
    store.open.clear()
    with RawClient(node.socket) as client:
        client.prefetch(SOURCE, environment=store.environ())
        eventually(lambda: store.waiting > 0, 20)
        assert _asked(node, path, 0, BLOCK)[:2] == (503, {"content-length": "0", HOLDS: "1"})
        store.open.set()


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_question_ends_the_connection(node: DaemonProcess, data: bytes) -> None:
    with socket.create_connection(_address(node), timeout=10) as peer:
        answer = b""
        # If the node leaves bytes unread, the kernel ends the connection with a reset, which may
        # arrive before the peer has sent everything.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            peer.sendall(data)
            with contextlib.suppress(OSError):  # raised if the connection is over
                peer.shutdown(socket.SHUT_WR)
            while more := peer.recv(4096):
                answer += more
    assert not answer or answer.startswith(b"HTTP/1.1 400 ")
    assert fleet_of(node)["serving"]


@pytest.fixture
def guarded(daemon_maker: Daemons, etcd: EtcdServer, tmp_path: Path) -> DaemonProcess:
    """A node that speaks TLS."""
    flags = certificate_flags(Authority(tmp_path), tmp_path, "node")
    return Nodes(daemon_maker, etcd.members_uri, *flags).together(1)[0]


def test_strangers_at_the_port_of_certificates(guarded: DaemonProcess, tmp_path: Path) -> None:
    """A peer without a certificate, or with one of another authority, gets no answer, and neither
    does plain HTTP.

    A crowd of peers that never end their handshakes does not keep a member out.
    """
    bundle = str(tmp_path / "authority.pem")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    theirs = Authority(elsewhere).node_files(elsewhere, "stranger")
    assert not _answered(guarded, _context(bundle))
    assert not _answered(guarded, _context(bundle, theirs))
    with _connected(guarded) as peer:
        peer.sendall(QUESTION)
        assert not _rest(peer).startswith(b"HTTP")
    ours = _context(bundle, (tmp_path / "node.crt", tmp_path / "node.key"))
    with contextlib.ExitStack() as crowd:
        slow = [crowd.enter_context(_connected(guarded, "127.0.0.9")) for _ in range(MOST_OF_ONE)]
        late = crowd.enter_context(_connected(guarded, "127.0.0.9"))
        assert not _rest(late)
        assert _answered(guarded, ours)
        slow[0].sendall(b"\x16")
        assert not _rest(slow[0])


def test_a_head_that_never_ends_ends_the_connection(node: DaemonProcess) -> None:
    with _connected(node) as peer:
        peer.sendall(QUESTION[:-2])
        assert not _rest(peer)


QUESTION = b"GET /v1/x/" + b"0" * 40 + b" HTTP/1.1\r\nRange: bytes=0-1\r\n\r\n"


def _connected(node: DaemonProcess, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(_address(node), timeout=60, source_address=(source, 0))


def _rest(peer: socket.socket) -> bytes:
    """The bytes that come until the node ends the connection."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while more := peer.recv(4096):
            got += more
    return got


def _context(bundle: str, files: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=bundle)
    context.check_hostname = False
    if files is not None:
        context.load_cert_chain(*files)
    return context


def _answered(node: DaemonProcess, context: ssl.SSLContext) -> bytes:
    """The bytes that come before the connection ends; with TLS 1.3 a refusal shows at the first
    read.
    """
    try:
        with context.wrap_socket(_connected(node)) as spoken:
            spoken.sendall(QUESTION)
            return spoken.recv(1)
    except OSError:
        return b""
