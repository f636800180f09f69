"""A process that reads for a caller opens no path, runs no program and asks no service that the
caller's variables name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer_client.storage.environment import authorities_of
from tests.support.certificates import Authority
from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.object_backends import MemoryStore
from tests.support.raw_client import RawClient

PATHS = (
    *("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("SSLKEYLOGFILE", "OPENSSL_CONF", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
    *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_DATA_PATH"),
    *("BOTO_CONFIG", "GOOGLE_APPLICATION_CREDENTIALS", "RUNAI_STREAMER_GCS_CREDENTIAL_FILE"),
    *("CLOUDSDK_CONFIG", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_CERTIFICATE_PATH"),
    *("AZURE_CONFIG_DIR", "NETRC", "HOME", "TMPDIR", "XDG_CONFIG_HOME"),
)
"""Variables that libraries of stores, of TLS and of HTTP take for a path."""

READ = """
import json, sys
given = json.load(sys.stdin)
seen = []
def look(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "subprocess.Popen", "os.exec", "os.system",
                 "os.posix_spawn", "os.fork", "socket.connect", "socket.getaddrinfo"):
        seen.append([event, *map(repr, arguments)])
sys.addaudithook(look)
from streamer_client.contract.errors import StreamerError
from streamer_client.storage.registry import storage_for
outcome = ""
try:
    storage = storage_for(given["source"], given["environment"])
    (shard,) = storage.list_shards(given["source"], None, [given["source"]])
    target = bytearray(shard.size_bytes)
    reader = storage.open(shard)
    reader.readinto(memoryview(target), 0)
    reader.close()
    outcome = target.decode()
except StreamerError as error:
    outcome = str(error)
json.dump({"seen": seen, "outcome": outcome}, sys.stdout)
"""
LIMIT_S = 60.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def store(authority: Authority) -> Iterator[FaultProxy]:
    """An S3 and web server that speaks TLS."""
    held = MemoryStore()
    held.put("/models/a.safetensors", b"right")
    with fault_proxy(held, authority.server_context()) as running:
        yield running


@pytest.fixture
def elsewhere() -> Iterator[FaultProxy]:
    """A server at the address that variables name as a service for credentials."""
    with fault_proxy(MemoryStore()) as running:
        yield running


def hostile(fifo: Path, elsewhere: FaultProxy) -> dict[str, str]:
    """An environment in which everything that may name a path names a FIFO."""
    if not fifo.exists():
        os.mkfifo(fifo)
    return dict.fromkeys(PATHS, str(fifo)) | {
        "AWS_PROFILE": "default",
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/x",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": elsewhere.url,
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": elsewhere.url,
        "GCE_METADATA_HOST": elsewhere.url.removeprefix("http://"),
        "IDENTITY_ENDPOINT": elsewhere.url,
        "AWS_MAX_ATTEMPTS": "1",
    }


def read(source: str, environment: dict[str, str]) -> dict[str, Any]:
    """Read in a process of its own, which would hang for ever if it opened a FIFO."""
    given = json.dumps({"source": source, "environment": environment})
    ended = subprocess.run(
        [sys.executable, "-c", READ],
        input=given,
        capture_output=True,
        check=True,
        text=True,
        timeout=LIMIT_S,
    )
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("kind", ["s3", "https", "gs", "az"])
def test_reading_opens_runs_and_asks_nothing_that_variables_name(
    kind: str, store: FaultProxy, elsewhere: FaultProxy, authority: Authority, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    environment = hostile(fifo, elsewhere)
    environment |= authorities_of({"AWS_CA_BUNDLE": str(authority.bundle)})
    environment |= {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "a secret",
        "STREAMER_GCS_ENDPOINT": store.url,
        "AZURE_STORAGE_ENDPOINT": store.url,
    }
    base = store.url if kind == "https" else f"{kind}:/"
    found = read(f"{base}/models/a.safetensors", environment)
    # The store does not speak Google's interface and refuses such a request. It is enough that the
    # request came to this store and to no other.
    assert found["outcome"] == "right" or kind == "gs"
    assert store.seen
    assert elsewhere.seen == []
    events = [" ".join(event) for event in found["seen"]]
    assert [event for event in events if str(fifo) in event] == []
    assert [
        e for e in events if not e.startswith(("open", "os.listdir", "os.scandir", "socket"))
    ] == []
    port = store.url.rpartition(":")[2]
    assert all(port in event for event in events if event.startswith("socket.connect"))


def test_a_daemons_worker_neither_hangs_in_a_path_nor_tells_of_it(
    streamerd: DaemonProcess,
    store: FaultProxy,
    elsewhere: FaultProxy,
    authority: Authority,
    tmp_path: Path,
) -> None:
    (path,) = write_model(tmp_path / "m", shards=1, blocks=2)
    assert isinstance(store.backend, MemoryStore)
    store.backend.put("/models/m/one.safetensors", path.read_bytes())
    environment = hostile(tmp_path / "fifo", elsewhere)
    environment |= authorities_of({"SSL_CERT_FILE": str(authority.bundle)})
    environment |= {"AWS_ENDPOINT_URL": store.url, "RUNAI_STREAMER_S3_UNSIGNED": "1"}
    with RawClient(streamerd.socket) as client:
        # These loads outnumber the worker's threads, and each load would hang one of them.
        for _ in range(4):
            load = client.open("s3://models/m", hold=True, environment=environment)
            assert load.read_all() == [path.read_bytes()]
    assert elsewhere.seen == []


def test_a_whole_systems_bundle_travels_to_the_workers(
    streamerd: DaemonProcess, store: FaultProxy, authority: Authority, tmp_path: Path
) -> None:
    """Certificates of some 220 KiB travel beside each read that a worker is asked for."""
    paths = write_model(tmp_path / "m", shards=2, blocks=4)
    assert isinstance(store.backend, MemoryStore)
    for path in paths:
        store.backend.put(f"/models/m/{path.name}", path.read_bytes())
    bundle = tmp_path / "all.pem"
    bundle.write_text(authority.bundle.read_text() * 500)
    assert bundle.stat().st_size > 220 << 10
    environment = authorities_of({"AWS_CA_BUNDLE": str(bundle)})
    environment |= {"AWS_ENDPOINT_URL": store.url, "RUNAI_STREAMER_S3_UNSIGNED": "1"}
    with RawClient(streamerd.socket) as client:
        load = client.open("s3://models/m", hold=True, environment=environment)
        assert load.read_all() == [path.read_bytes() for path in paths]
