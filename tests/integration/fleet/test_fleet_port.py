"""What a peer may ask at the port, and what becomes of one that asks something else."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from pathlib import Path

import pytest
import xxhash

from streamer_client.storage.registry import storage_for
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


def test_what_is_answered(node: DaemonProcess, store: GuardedStore, files: list[bytes]) -> None:
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
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        answer = b""
        # What the node did not read of it makes the kernel end the connection by a reset.
        with contextlib.suppress(ConnectionResetError):
            while more := peer.recv(4096):
                answer += more
    assert not answer or answer.startswith(b"HTTP/1.1 400 ")
    assert fleet_of(node)["serving"]


def test_without_a_certificate_nothing_is_answered(
    daemon_maker: Daemons, etcd: EtcdServer, tmp_path: Path
) -> None:
    flags = certificate_flags(Authority(tmp_path), tmp_path, "node")
    (node,) = Nodes(daemon_maker, etcd.members_uri, *flags).together(1)
    context = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    context.check_hostname = False
    with socket.create_connection(_address(node), timeout=10) as peer:
        assert not _answered(context, peer)


def _answered(context: ssl.SSLContext, peer: socket.socket) -> bytes:
    """What comes before the connection ends; TLS 1.3 tells a refusal at the first read."""
    try:
        with context.wrap_socket(peer) as spoken:
            spoken.sendall(b"GET /v1/x/" + b"0" * 40 + b" HTTP/1.1\r\nRange: bytes=0-1\r\n\r\n")
            return spoken.recv(1)
    except OSError:
        return b""
