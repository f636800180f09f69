"""One network, store and etcd for all tests of the fleet; nodes live as long as the tests of their
file.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fleet.network import Network, network
from tests.fleet.nodes import MODEL_BYTES, PORT, Node, know_each_other
from tests.fleet.store import CountingStore, counting_store
from tests.support.certificates import Authority
from tests.support.dnsmasq import dns_server
from tests.support.etcd import EtcdServer
from tests.support.fleet_nodes import FLEET, certificate_flags

MakeNodes = Callable[..., contextlib.AbstractContextManager[list[Node]]]


@pytest.fixture(scope="package")
def hosts() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture(scope="package")
def store(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountingStore]:
    folder = tmp_path_factory.mktemp("store")
    with counting_store(folder, hosts.store.enter(), hosts.store.address) as running:
        yield running


@pytest.fixture(scope="package")
def etcd(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(
        "etcd", tmp_path_factory.mktemp("etcd"), address=hosts.hub_address, before=hosts.enter_hub()
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="package")
def model() -> bytes:
    """The bytes of an object, which each test puts under a name of its own."""
    return os.urandom(MODEL_BYTES)


@pytest.fixture(scope="package")
def make_nodes(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> MakeNodes:
    """Makes and ends nodes, each with a certificate of one authority."""
    certificates = tmp_path_factory.mktemp("certificates")
    authority = Authority(certificates)

    @contextlib.contextmanager
    def make(members: str, bound: Sequence[tuple[Path, Path]] = ()) -> Iterator[list[Node]]:
        with tempfile.TemporaryDirectory(prefix="strd-") as name:
            folder, nodes = Path(name), []
            for host in hosts.nodes:
                own = certificate_flags(authority, certificates, host.address)
                flags = (f"--fleet={FLEET}", f"--fleet-members={members}", *own)
                nodes.append(Node(host, folder, flags, bound))
            try:
                for node in nodes:
                    node.daemon.start()
                know_each_other(nodes)
                yield nodes
            finally:
                for node in nodes:
                    node.daemon.end()
                for log in sorted(folder.glob("*.log")):
                    sys.stderr.write(f"--- {log.name}\n{log.read_text(errors='replace')}")

    return make


@pytest.fixture(scope="module")
def nodes(make_nodes: MakeNodes, etcd: EtcdServer) -> Iterator[list[Node]]:
    with make_nodes(etcd.members_uri) as made:
        yield made


@pytest.fixture
def nodes_by_dns(make_nodes: MakeNodes, hosts: Network, tmp_path: Path) -> Iterator[list[Node]]:
    """Nodes whose members are the addresses behind one name, without any etcd."""
    addresses = [host.address for host in hosts.nodes]
    with (
        dns_server(
            tmp_path, hosts.hub_address, "nodes.example", addresses, hosts.enter_hub()
        ) as resolver,
        make_nodes(f"dns://nodes.example:{PORT}", [(resolver, Path("/etc/resolv.conf"))]) as made,
    ):
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads
