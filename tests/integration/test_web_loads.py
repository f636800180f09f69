"""A checkpoint on a web server, loaded by a URL with secrets in it: read once, and shown without
the secrets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from streamer_client.client import Client, daemon_client, direct_client
from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.object_backends import MemoryStore

HUSH = "hush-hush"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FaultProxy]:
    """A server of a checkpoint of two shards with an index."""
    store = MemoryStore()
    weights: dict[str, str] = {}
    for path in write_model(tmp_path / "llama", shards=2, blocks=2):
        store.put(f"/llama/{path.name}", path.read_bytes())
        weights |= dict.fromkeys(load_file(path), path.name)
    index = json.dumps({"weight_map": weights}).encode()
    store.put("/llama/model.safetensors.index.json", index)
    with fault_proxy(store) as proxy:
        yield proxy


def check(client: Client, site: FaultProxy, directory: Path) -> str:
    """Load by a URL with a password and a signature; returns the name of the checkpoint and its
    shards.
    """
    url = f"http://user:{HUSH}@{site.url.removeprefix('http://')}/llama?X-Amz-Signature={HUSH}"
    with client.open(url) as checkpoint:
        names = str([checkpoint, *checkpoint.catalog.values()])
        found = {name: tensor.clone() for name, tensor in checkpoint.tensors()}
    for path in directory.glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            assert found.pop(name).equal(tensor)
    assert not found
    return names


def check_requests(site: FaultProxy) -> None:
    for seen in site.seen:
        assert seen.asked.headers["authorization"] == "Basic dXNlcjpodXNoLWh1c2g="
        assert seen.asked.target.endswith(f"?X-Amz-Signature={HUSH}")


def test_through_a_daemon(streamerd: DaemonProcess, site: FaultProxy, tmp_path: Path) -> None:
    with daemon_client(str(streamerd.socket)) as client:
        names = check(client, site, tmp_path / "llama")
        shown = json.dumps(streamerd.status())
    check_requests(site)
    assert len(site.gets(".safetensors")) == 4
    assert f"{site.url}/llama" in shown
    sidecars = "".join(path.read_text(errors="replace") for path in streamerd.sidecars.rglob("*.*"))
    assert HUSH not in names + shown + streamerd.log + sidecars


def test_without_one(site: FaultProxy, tmp_path: Path) -> None:
    with direct_client() as client:
        names = check(client, site, tmp_path / "llama")
    check_requests(site)
    assert HUSH not in names
