"""Loads from gs:// and az:// through a real daemon, with the stores' requests counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from streamer_client.contract import messages as m
from tests.support.azurite import ACCOUNT, Azurite, azurite, azurite_missing
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.fault_proxy import FaultProxy, Seen, fault_proxy
from tests.support.gcs_store import GcsStore
from tests.support.loader import LoaderServer, start_together
from tests.support.object_backends import Forward
from tests.support.raw_client import RawClient

GS = "gs://models/llama"
AZ = "az://models/llama"
TOKEN = "a-very-secret-token"  # noqa: S105 - of nothing
OTHER = "another-secret-token"


@pytest.fixture
def streamerd(daemon_maker: Daemons) -> DaemonProcess:
    return daemon_maker.start(f"--memory-limit={64 * BLOCK}", "--log-level=debug")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """A checkpoint of two shards of five blocks, in the store and on disk."""
    paths = write_model(tmp_path / "llama", shards=2, blocks=5)
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture
def store(files: dict[str, bytes]) -> GcsStore:
    store = GcsStore()
    store.accepts = TOKEN
    for name, data in files.items():
        store.put("models", f"llama/{name}", data)
    return store


@pytest.fixture
def google(store: GcsStore) -> Iterator[FaultProxy]:
    with fault_proxy(store) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def server() -> Iterator[Azurite]:
    missing = azurite_missing()
    if missing:
        pytest.skip(missing)
    with azurite() as running, running.service() as service:
        service.create_container("models")
        yield running


@pytest.fixture
def azure(server: Azurite, files: dict[str, bytes]) -> Iterator[FaultProxy]:
    with server.service() as service, fault_proxy(Forward(server.url)) as proxy:
        for name, data in files.items():
            service.get_blob_client("models", f"llama/{name}").upload_blob(data, overwrite=True)
        yield proxy


def as_google(proxy: FaultProxy, token: str = TOKEN) -> dict[str, str]:
    return {"STREAMER_GCS_ENDPOINT": proxy.url, "STREAMER_GCS_BEARER": token}


def reads(seen: Iterable[Seen]) -> Counter[tuple[str, tuple[int, int]]]:
    return Counter((each.asked.path, each.asked.range) for each in seen if each.asked.range)


def share_one_read(
    streamerd: DaemonProcess,
    loaders: LoaderServer,
    source: str,
    environ: dict[str, str],
    proxy: FaultProxy,
    disk: Path,
) -> None:
    started = [loaders.start(streamerd.socket, source, environ=environ) for _ in range(2)]
    with loaders.start(streamerd.socket, str(disk)) as from_disk:
        from_disk.go_on()
        expected = from_disk.result()["digest"]
    start_together(started)
    for loader in started:
        with loader:
            found = loader.result()
            assert (found["digest"], found["mode"]) == (expected, "daemon")
    assert len(reads(proxy.seen)) == 10
    assert set(reads(proxy.seen).values()) == {1}


def test_ranks_share_one_read_of_google(
    streamerd: DaemonProcess,
    loaders: LoaderServer,
    google: FaultProxy,
    tmp_path: Path,
) -> None:
    share_one_read(streamerd, loaders, GS, as_google(google), google, tmp_path / "llama")
    assert TOKEN not in f"{streamerd.log} {streamerd.status()}"


def test_ranks_share_one_read_of_azure(
    streamerd: DaemonProcess,
    loaders: LoaderServer,
    server: Azurite,
    azure: FaultProxy,
    tmp_path: Path,
) -> None:
    environ = {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": server.key,
        "AZURE_STORAGE_ENDPOINT": server.endpoint(azure.url),
    }
    share_one_read(streamerd, loaders, AZ, environ, azure, tmp_path / "llama")
    shown = f"{streamerd.log} {streamerd.status()}"
    assert "az://models/llama" in shown
    assert "sig=" not in shown
    assert server.key not in shown


def test_what_is_in_memory_is_given_only_to_whom_google_gives_it(
    streamerd: DaemonProcess, google: FaultProxy
) -> None:
    with RawClient(streamerd.socket) as good, RawClient(streamerd.socket) as bad:
        good.open(GS, hold=True, environment=as_google(google)).await_grants(10)
        refused = bad.refused(m.Open(bad.next_id(), 7, GS, environment=as_google(google, OTHER)))
        assert refused.code == "credentials-expired"
        good.open(GS, hold=True, environment=as_google(google)).await_grants(10)
    assert set(reads(google.seen).values()) == {1}
    assert OTHER not in f"{streamerd.log} {refused}"


def test_a_token_that_expires_is_asked_for_and_the_load_goes_on(
    streamerd: DaemonProcess, google: FaultProxy, store: GcsStore, files: dict[str, bytes]
) -> None:
    with RawClient(streamerd.socket) as client:
        load = client.open(GS, want="none", hold=True, environment=as_google(google))
        load.want((0, 0, 2))
        load.await_grants(2)
        store.accepts = OTHER
        load.want((0, 2, 5), (1, 0, 5))
        assert client.expect(m.CredentialsWanted).load == load.number
        client.send(m.Renew(load.number, as_google(google, OTHER)))
        assert load.read_all() == list(files.values())
    assert streamerd.totals()["errors"] == 0
