"""Loads from an object store through a real daemon, with the store's requests counted."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.contract import messages as m
from streamer_client.contract.codec import encode
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.guarded_store import SECRET, TOKEN, GuardedStore, guarded_store
from tests.support.loader import LoaderServer, start_together
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually

SOURCE = "s3://models/llama"


@pytest.fixture
def streamerd(daemon_maker: Daemons) -> DaemonProcess:
    """A daemon with room for a few checkpoints."""
    return daemon_maker.start(f"--memory-limit={64 * BLOCK}")


@pytest.fixture
def store() -> Iterator[GuardedStore]:
    with guarded_store() as running:
        yield running


@pytest.fixture
def files(store: GuardedStore, tmp_path: Path) -> list[bytes]:
    """A checkpoint of two shards of five blocks in the store."""
    paths = write_model(tmp_path / "llama", shards=2, blocks=5)
    store.put_model(tmp_path / "llama", SOURCE)
    return [path.read_bytes() for path in paths]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_one_ranged_get_for_each_block(
    streamerd: DaemonProcess,
    loaders: LoaderServer,
    store: GuardedStore,
    files: list[bytes],
    tmp_path: Path,
    ranks: int,
) -> None:
    started = [
        loaders.start(streamerd.socket, SOURCE, environ=store.environ()) for _ in range(ranks)
    ]
    with loaders.start(streamerd.socket, str(tmp_path / "llama")) as from_disk:
        from_disk.go_on()
        expected = from_disk.result()["digest"]
    start_together(started)
    for loader in started:
        with loader:
            found = loader.result()
            assert (found["digest"], found["mode"]) == (expected, "daemon")
    reads = store.reads()
    assert len(reads) == 10
    assert set(reads.values()) == {1}
    assert all(each.if_match for each in store.seen if each.range)
    assert streamerd.totals()["source_device_bytes"] >= 10 * BLOCK


def test_retries_are_counted_for_daemon_and_shard(
    streamerd: DaemonProcess, store: GuardedStore, files: list[bytes]
) -> None:
    store.slow_downs = 3
    with RawClient(streamerd.socket) as client:
        load = client.open(SOURCE, hold=True, environment=store.environ())
        assert load.read_all() == files
    assert sum(store.reads().values()) == 13
    totals = streamerd.totals()
    assert (totals["retries"], totals["errors"], totals["source_requests"]) == (3, 0, 10)
    assert sum(row["retries"] for row in streamerd.shards().values()) == 3


def test_a_changed_object_is_never_mixed(
    streamerd: DaemonProcess, store: GuardedStore, files: list[bytes]
) -> None:
    with RawClient(streamerd.socket) as client:
        load = client.open(SOURCE, want="none", hold=True, environment=store.environ())
        load.want((0, 0, 2))
        load.await_grants(2)
        store.put("models", "llama/llama-0.safetensors", files[1])
        load.want((0, 2, 5))
        failed = client.expect(m.ShardFailed)
        assert failed.code == "source-changed"
        assert "s3://models/llama/llama-0.safetensors" in failed.message
        again = client.open(SOURCE, hold=True, environment=store.environ())
        again.await_grants(10)
        assert again.read_all() == [files[1], files[1]]


def test_what_is_in_memory_is_given_only_to_whom_the_store_gives_it(
    streamerd: DaemonProcess, store: GuardedStore, files: list[bytes]
) -> None:
    store.denied.add("AKIABAD")
    with RawClient(streamerd.socket) as good, RawClient(streamerd.socket) as bad:
        good.open(SOURCE, hold=True, environment=store.environ()).await_grants(10)
        environment = store.environ("AKIABAD")
        refused = bad.refused(m.Open(bad.next_id(), 7, SOURCE, environment=environment))
        assert refused.code == "source-forbidden"
        again = good.open(SOURCE, hold=True, environment=store.environ())
        assert len(again.granted) == 10
    assert set(store.reads().values()) == {1}


def test_credentials_that_expire_are_asked_for_and_the_load_goes_on(
    streamerd: DaemonProcess, store: GuardedStore, files: list[bytes]
) -> None:
    with RawClient(streamerd.socket) as client:
        environment = store.environ("AKIAROLE", "token-one")
        load = client.open(SOURCE, want="none", hold=True, environment=environment)
        load.want((0, 0, 2))
        load.await_grants(2)
        store.expired.add("token-one")
        load.want((0, 2, 5), (1, 0, 5))
        assert client.expect(m.CredentialsWanted).load == load.number
        client.send(m.Renew(load.number, store.environ("AKIAROLE", "token-two")))
        assert load.read_all() == files
    totals = streamerd.totals()
    assert totals["retries"] >= 1
    assert totals["errors"] == 0


def test_a_client_without_newer_credentials_is_told_what_the_store_said(
    streamerd: DaemonProcess, store: GuardedStore, files: list[bytes]
) -> None:
    with RawClient(streamerd.socket) as client:
        environment = store.environ("AKIAROLE", "token-one")
        load = client.open(SOURCE, want="none", environment=environment)
        store.expired.add("token-one")
        load.want((0, 0, 2))
        client.expect(m.CredentialsWanted)
        client.send(m.Renew(load.number, environment))
        failed = client.expect(m.ShardFailed)
        assert (failed.shard, failed.code) == (0, "credentials-expired")
        assert "ExpiredToken" in failed.message


def test_the_client_renews_by_itself_from_where_it_has_its_credentials(
    streamerd: DaemonProcess,
    loaders: LoaderServer,
    store: GuardedStore,
    files: list[bytes],
    tmp_path: Path,
) -> None:
    shared = tmp_path / "credentials"

    def write(token: str) -> None:
        lines = ["[default]", "aws_access_key_id=AKIAROLE", f"aws_secret_access_key={SECRET}"]
        shared.write_text("\n".join([*lines, f"aws_session_token={token}", ""]))

    write("token-one")
    environ = store.environ()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del environ[name]
    environ["AWS_SHARED_CREDENTIALS_FILE"] = str(shared)
    store.open.clear()
    with loaders.start(streamerd.socket, SOURCE, environ=environ) as loader:
        loader.go_on()
        eventually(lambda: store.waiting > 0)
        store.expired.add("token-one")
        write("token-two")
        store.open.set()
        loader.result()
    assert {each.token for each in store.seen if each.range} == {"token-one", "token-two"}


def test_bad_credentials_of_one_load_break_no_other(
    streamerd: DaemonProcess, store: GuardedStore, files: list[bytes]
) -> None:
    with RawClient(streamerd.socket) as one, RawClient(streamerd.socket) as two:
        first = one.open(SOURCE, want="none", hold=True, environment=store.environ("AKIAONE"))
        second = two.open(SOURCE, want="none", hold=True, environment=store.environ("AKIATWO"))
        store.open.clear()
        first.want((0, 0, 5))
        eventually(lambda: store.waiting > 0)
        second.want((0, 0, 5))
        store.denied.add("AKIAONE")
        store.open.set()
        assert one.expect(m.ShardFailed).code == "source-forbidden"
        second.await_grants(5)
        assert b"".join(second.bytes_of(0, block) for block in range(5)) == files[0]


def test_concurrency_is_connections_and_a_slow_store_holds_no_disk_up(
    daemon_maker: Daemons, store: GuardedStore, files: list[bytes], tmp_path: Path
) -> None:
    daemon = daemon_maker.start(f"--memory-limit={64 * BLOCK}", "--connections=5")
    store.open.clear()
    with RawClient(daemon.socket) as one, RawClient(daemon.socket) as two:
        one.open(SOURCE, hold=True, concurrency=3, environment=store.environ())
        eventually(lambda: store.waiting == 3)
        disk = two.open(str(tmp_path / "llama"), hold=True)
        assert disk.read_all() == files
        again = two.open(SOURCE, environment=store.environ("AKIATWO"))
        eventually(lambda: store.waiting == 5)
        store.open.set()
        assert again.read_all() == files
    assert set(store.reads().values()) == {1}


def test_the_cap_holds_reads_back_until_it_is_raised(
    daemon_maker: Daemons, store: GuardedStore, files: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "streamerd.toml"
    path.write_text("bandwidth_limit = 1\n")  # a byte a second
    daemon = daemon_maker.start(f"--config={path}", f"--memory-limit={16 * BLOCK}")
    with RawClient(daemon.socket) as client:
        load = client.open(SOURCE, want="none", environment=store.environ())
        load.want((0, 0, 2))
        load.await_grants(1)
        assert sum(store.reads().values()) == 1
        assert daemon.status()["bandwidth_limit_bytes_per_s"] == 1
        path.write_text("bandwidth_limit = 0\n")
        daemon.signal(signal.SIGHUP)
        load.await_grants(2)
    assert daemon.status()["bandwidth_limit_bytes_per_s"] == 0


def test_a_daemon_that_dies_is_gone_on_without(
    streamerd: DaemonProcess,
    loaders: LoaderServer,
    store: GuardedStore,
    files: list[bytes],
    tmp_path: Path,
) -> None:
    with loaders.start(streamerd.socket, str(tmp_path / "llama")) as from_disk:
        from_disk.go_on()
        expected = from_disk.result()["digest"]
    options = {"environ": store.environ(), "reconnect_s": 0.1, "hold": False}
    store.holds = lambda seen: "llama-1" in seen.path and not seen.range.startswith("bytes=0-")
    store.open.clear()  # the daemon never gets the second shard's data
    with loaders.start(streamerd.socket, SOURCE, stop_at_first=True, **options) as loader:
        loader.go_on()
        loader.await_line("first")
        streamerd.kill()
        store.open.set()
        loader.go_on()
        found = loader.result()
    assert (found["digest"], found["mode"]) == (expected, "daemon+direct")


def test_a_whole_load_and_its_end_leave_no_secret_in_a_log(
    daemon_maker: Daemons, store: GuardedStore, files: list[bytes]
) -> None:
    daemon = daemon_maker.start("--log-level=debug")
    environment = store.environ("AKIAROLE", TOKEN)
    store.slow_downs = 2
    with RawClient(daemon.socket) as client:
        load = client.open(SOURCE, environment=environment)
        assert load.read_all() == files
        client.send(m.Renew(load.number, {**environment, "AWS_REGION": "us-east-1"}))
        load.close()
        client.request(m.GetStatus(client.next_id()), m.Status)
    daemon.stop()
    assert "request_again" in daemon.log
    for hidden in (SECRET, TOKEN, "Signature="):
        assert hidden not in daemon.log


def test_no_secret_is_written_or_shown(
    daemon_maker: Daemons, store: GuardedStore, files: list[bytes], tmp_path: Path
) -> None:
    daemon = daemon_maker.start("--log-level=debug")
    environment = store.environ("AKIAROLE", TOKEN)
    with RawClient(daemon.socket) as client:
        load = client.open(SOURCE, want="none", environment=environment)
        store.expired.add(TOKEN)
        load.want((0, 0, 2))
        client.expect(m.CredentialsWanted)
        client.send(m.Renew(load.number, environment))
        told = client.expect(m.ShardFailed).message
        broken = environment | {"AWS_ENDPOINT_URL": "http://["}
        told += str(client.refused(m.Open(client.next_id(), 8, SOURCE, environment=broken)))
        client.send_frames(encode(m.Open(9, 9, SOURCE, environment=environment))[:-3])
        told += str(client.expect(m.Failed))
        config = client.request(m.GetConfig(client.next_id()), m.Config)
    shown = f"{daemon.log} {daemon.status()} {config} {told}"
    assert "event=credentials_expired" in daemon.log
    assert SECRET not in shown
    assert TOKEN not in shown
