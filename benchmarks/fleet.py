"""Many nodes on one machine: what a fleet reads from the store, and how fast a peer's bytes come.

`python -m benchmarks.fleet` makes two tables, each with real daemons and a real etcd:

- `network`: four nodes in network namespaces; each has a cable of 200 Mbit/s, and so has the store.
  The table has the bytes from the store over the file's size. It also has the last node's time over
  the least time in which all could get everything from the store. Needs root.
- `loopback`: a second node loads the object that a first one has in memory, without any cap, plain
  and with TLS. Beside it stand bare loops on four connections in the same run: sendfile to
  recv_into, and the same bytes over TLS, by Python's `ssl`, into memory that is there already. The
  processor time is that of all processes of the receiving side, and of the sending one.

The network, the store and the daemons are those of the tests.
"""

from __future__ import annotations

import argparse
import mmap
import os
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from tests.fleet.network import RATE_BYTES, network
from tests.fleet.nodes import MODEL_BYTES, Node, know_each_other, load_at_once
from tests.fleet.store import CountingStore, counting_store
from tests.support.certificates import Authority
from tests.support.daemon import DaemonProcess
from tests.support.etcd import EtcdServer, etcd_server, free_port
from tests.support.fleet_nodes import FLEET, certificate_flags, fleet_of
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually
from tests.support.worlds import processes_of

from streamerd.fleet.serve.sending import PIECE_BYTES
from streamerd.fleet.tls import client_context, server_context
from streamerd.settings.fleet import Certificates

LOOPBACK_BYTES: Final = 512 << 20
CONNECTIONS: Final = 4
JOIN_S: Final = 30.0
_TICKS_S: Final = os.sysconf("SC_CLK_TCK")


# --- four nodes over capped cables ----------------------------------------------------------------


def network_table() -> None:
    """Print the table of starts in namespaces."""
    print("| case | from the store / file | last node / all from the store |\n|---|---|---|")
    with ExitStack() as stack:
        hosts = stack.enter_context(network())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="strd-")))
        places = [folder / name for name in ("store", "etcd", "keys")]
        for place in places:
            place.mkdir()
        store = stack.enter_context(
            counting_store(places[0], hosts.store.enter(), hosts.store.address)
        )
        etcd = EtcdServer("etcd", places[1], hosts.hub_address, hosts.enter_hub())
        stack.callback(etcd.stop)
        etcd.start()
        authority, model = Authority(places[2]), os.urandom(MODEL_BYTES)
        fleet = (f"--fleet={FLEET}", f"--fleet-members={etcd.members_uri}")
        nodes = []
        for host in hosts.nodes:
            own = certificate_flags(authority, places[2], host.address)
            nodes.append(Node(host, folder, (*fleet, *own), ()))
            stack.callback(nodes[-1].daemon.end)
            nodes[-1].daemon.start()
        know_each_other(nodes)
        _at_once(nodes, store, model)
        _late(nodes, store, model)
        _one_killed(nodes, store, model)


def _row(case: str, store_ratio: float, time_s: float, nodes: int) -> None:
    least_s = nodes * MODEL_BYTES / RATE_BYTES
    print(f"| {case} | {store_ratio:.2f} | {time_s / least_s:.2f} |", flush=True)


def _at_once(nodes: Sequence[Node], store: CountingStore, model: bytes) -> None:
    with ThreadPoolExecutor(len(nodes)) as pool:
        uri = store.put("at-once.safetensors", model)
        took_s = load_at_once(pool, nodes, uri, store.environ()).longest_s(nodes)
    _row("four at once", store.sent_bytes(uri) / len(model), took_s, len(nodes))


def _late(nodes: Sequence[Node], store: CountingStore, model: bytes) -> None:
    *early, late = nodes
    uri = store.put("late.safetensors", model)
    with ThreadPoolExecutor(len(nodes)) as pool:
        load_at_once(pool, early, uri, store.environ()).of(early)
        before_bytes = store.sent_bytes(uri)
        took_s = load_at_once(pool, [late], uri, store.environ()).longest_s([late])
    _row("a late node", (store.sent_bytes(uri) - before_bytes) / len(model), took_s, 1)


def _one_killed(nodes: Sequence[Node], store: CountingStore, model: bytes) -> None:
    *others, victim = nodes
    uri = store.put("killed.safetensors", model)
    with ThreadPoolExecutor(len(nodes)) as pool:
        loads = load_at_once(pool, nodes, uri, store.environ())
        eventually(lambda: victim.resident_bytes(uri) > len(model) // 3, 60)
        victim.kill()
        took_s = loads.longest_s(others)
    _row("one killed in the middle", store.sent_bytes(uri) / len(model), took_s, len(nodes))


# --- one peer, no cap -----------------------------------------------------------------------------


class Moved(NamedTuple):
    """The figures of a transfer."""

    bytes_per_s: float
    receiver_s_per_gib: float
    sender_s_per_gib: float


def loopback_table(tries: int) -> None:
    """Print the table of a peer's bytes against plain TCP, with the best of so many transfers."""
    print("| way | GB/s | over sendfile | CPU s a GiB, receiver | sender |\n|---|---|---|---|---|")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="strd-")))
        for name in ("store", "etcd"):
            (folder / name).mkdir()
        files = Certificates(
            str(folder / "bare.crt"), str(folder / "bare.key"), str(folder / "authority.pem")
        )
        Authority(folder).node_files(folder, "bare")
        sendfile = max(bare(LOOPBACK_BYTES, None) for _ in range(tries))
        reference = sendfile.bytes_per_s
        _way("sendfile to recv_into, 4 connections", sendfile, reference)
        tls = max(bare(LOOPBACK_BYTES, files) for _ in range(tries))
        _way("the same over TLS", tls, reference)
        store = stack.enter_context(counting_store(folder / "store", (), "127.0.0.1"))
        etcd = stack.enter_context(etcd_server(folder / "etcd"))
        authority = Authority(folder)
        for way, own in (("plain", ()), ("TLS", certificate_flags(authority, folder, "node"))):
            moved = _peer_to_slab(folder, store, etcd, (way, *own), tries)
            _way(f"peer to slab, {way}", moved, reference)


def _way(name: str, moved: Moved, reference: float) -> None:
    print(
        f"| {name} | {moved.bytes_per_s / 1e9:.2f} | {moved.bytes_per_s / reference:.2f} | "
        f"{moved.receiver_s_per_gib:.2f} | {moved.sender_s_per_gib:.2f} |",
        flush=True,
    )


def _peer_to_slab(
    folder: Path, store: CountingStore, etcd: EtcdServer, way: Sequence[str], tries: int
) -> Moved:
    name, *own = way
    etcd.prefix = f"/{name}"
    daemons = []
    try:
        for number in range(2):
            daemons.append(
                DaemonProcess(
                    folder / f"{name}{number}.sock", f"--fleet={FLEET}", *own,
                    f"--fleet-members={etcd.members_uri}", "--block-size=8MiB",
                    f"--fleet-listen=127.0.0.1:{free_port()}",
                    f"--memory-limit={LOOPBACK_BYTES + (64 << 20)}",
                )
            )  # fmt: skip
            daemons[-1].start()
        sender, receiver = daemons
        eventually(lambda: all(len(fleet_of(each)["members"]) == 2 for each in daemons), JOIN_S)
        model = os.urandom(LOOPBACK_BYTES)
        uris = [store.put(f"{name}-{number}.safetensors", model) for number in range(tries)]
        return max(_one_transfer(sender, receiver, uri, store) for uri in uris)
    finally:
        for each in daemons:
            each.end()


def _one_transfer(
    sender: DaemonProcess, receiver: DaemonProcess, uri: str, store: CountingStore
) -> Moved:
    _bring_in(sender, uri, store)
    before_s = [_processor_s(each) for each in (receiver, sender)]
    began_s = time.monotonic()
    _bring_in(receiver, uri, store)
    took_s = time.monotonic() - began_s
    after_s = [_processor_s(each) for each in (receiver, sender)]
    gib = LOOPBACK_BYTES / (1 << 30)
    used = [(after - before) / gib for before, after in zip(before_s, after_s, strict=True)]
    return Moved(LOOPBACK_BYTES / took_s, *used)


def _bring_in(daemon: DaemonProcess, uri: str, store: CountingStore) -> None:
    """Bring an object into a daemon's memory, without a client that reads it."""
    with RawClient(daemon.socket) as client:
        load = client.open(uri, hold=True, environment=store.environ())
        load.await_grants(len(load.blocks))


def _processor_s(daemon: DaemonProcess) -> float:
    """Processor time of a daemon and of all processes that it started."""
    ticks = 0
    for pid in processes_of(daemon.pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_S


def bare(size_bytes: int, files: Certificates | None) -> Moved:
    """From shared memory to shared memory on four connections, without a daemon.

    Args:
        size_bytes: how much is sent.
        files: the certificates of both sides; None for plain TCP by sendfile.
    """
    part = size_bytes // CONNECTIONS
    source, target = (os.memfd_create(name) for name in ("source", "target"))
    for fd in (source, target):
        os.posix_fallocate(fd, 0, size_bytes)
    context = None if files is None else client_context(files)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        child = os.fork()
        if child == 0:
            _send_parts(listening, source, part, files)
        with mmap.mmap(target, size_bytes) as mapping, memoryview(mapping) as view:
            before_s, began_s = time.process_time(), time.monotonic()
            parts = [view[index * part : (index + 1) * part] for index in range(CONNECTIONS)]
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                list(pool.map(lambda each: _receive(listening.getsockname(), each, context), parts))
            took_s, used_s = time.monotonic() - began_s, time.process_time() - before_s
            for each in parts:
                each.release()
    sender = os.wait4(child, 0)[2]
    for fd in (source, target):
        os.close(fd)
    gib = size_bytes / (1 << 30)
    return Moved(size_bytes / took_s, used_s / gib, (sender.ru_utime + sender.ru_stime) / gib)


def _send_parts(
    listening: socket.socket, source: int, part: int, files: Certificates | None
) -> None:
    """Send each connection its part in turn; the child of `bare` runs this."""
    context = None if files is None else server_context(files)

    def send(connected: socket.socket, start: int, view: memoryview) -> None:
        if context is not None:
            with context.wrap_socket(connected, server_side=True) as wrapped:
                for at in range(start, start + part, PIECE_BYTES):
                    wrapped.sendall(view[at : at + PIECE_BYTES])
                wrapped.recv(1)  # until the receiver has all
            return
        with connected:
            sent = 0
            while sent < part:
                sent += os.sendfile(connected.fileno(), source, start + sent, part - sent)

    view = memoryview(mmap.mmap(source, CONNECTIONS * part, prot=mmap.PROT_READ))
    threads = []
    for index in range(CONNECTIONS):
        connected, _ = listening.accept()
        threads.append(threading.Thread(target=send, args=(connected, index * part, view)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    os._exit(0)


def _receive(address: tuple[str, int], target: memoryview, context: ssl.SSLContext | None) -> None:
    with ExitStack() as stack:
        connected = stack.enter_context(socket.create_connection(address))
        if context is not None:
            connected = stack.enter_context(context.wrap_socket(connected))
        got = 0
        while got < len(target):
            got += connected.recv_into(target[got:])


def main() -> None:
    parser = argparse.ArgumentParser(description="what a fleet reads, and how fast peers send")
    parser.add_argument("--only", choices=("network", "loopback"), help="one of the two tables")
    parser.add_argument("--tries", type=int, default=3, help="transfers over loopback (default 3)")
    arguments = parser.parse_args()
    if arguments.only != "loopback":
        network_table()
    if arguments.only != "network":
        loopback_table(arguments.tries)


if __name__ == "__main__":
    main()
