"""Slabs come to the client as descriptors in batches, at any time, or not at all."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
import torch

from streamer_client.client import Client, daemon_client
from streamer_client.contract.errors import DaemonUnavailable, MemoryLimitError, RequestRefused
from streamer_client.contract.handover import Got
from streamer_client.contract.messages import Close
from streamer_client.launch import open_client
from tests.support.checkpoints import Stored, random_tensor, write_shard
from tests.support.daemon_script import Script
from tests.support.scripted_daemon import ScriptedDaemon
from tests.support.waiting import eventually

BLOCK = 4096
SHARDS = 5


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for place in range(SHARDS):
        write_shard(tmp_path / f"m{place}.safetensors", {f"w{place}": stored(place)})
    return tmp_path


def stored(place: int) -> Stored:
    return random_tensor("F32", (100, 33), place)


def assert_right(client: Client, source: Path, mode: str = "daemon") -> None:
    with client.open(source) as checkpoint:
        found = dict(checkpoint.tensors())
        assert checkpoint.stats.mode == mode
    assert len(found) == SHARDS
    for name, tensor in found.items():
        data = stored(int(name[1:]))[2]
        assert bytes(tensor.reshape(-1).view(torch.uint8).tolist()) == data, name


@pytest.mark.parametrize(
    "script",
    [
        Script(block_bytes=BLOCK, slab_batch=2),
        Script(block_bytes=BLOCK, slab_batch=1, slabs_first=True),
        Script(block_bytes=BLOCK, memfd=True),
        Script(block_bytes=BLOCK, holds=False, memfd=True, window_blocks=2),
    ],
    ids=["batches", "before the answer", "without names", "without names, windowed"],
)
def test_slabs_may_come_before_or_after_the_answer(
    daemon: ScriptedDaemon, script: Script, client: Client, source: Path
) -> None:
    assert_right(client, source)

    def acknowledged() -> int:
        return sum(isinstance(one.packet, Got) for one in list(daemon.ends.arrived))

    eventually(lambda: acknowledged() == -(-SHARDS // script.slab_batch))


def test_an_empty_shard_has_none(daemon: ScriptedDaemon, client: Client, source: Path) -> None:
    (source / "m9.safetensors").touch()
    with client.open(source) as checkpoint:
        assert len(checkpoint.uris) == SHARDS + 1


def test_they_cannot_be_written_to(daemon: ScriptedDaemon, client: Client, source: Path) -> None:
    with client.open(source) as checkpoint:
        view = dict(checkpoint.tensors())["w0"]
        slabs = re.findall(r"(\S+) \S+ \S+ \S+ +/dev/shm/streamerd", maps())
        assert slabs
        assert all(permissions[3] == "p" for permissions in slabs), "mapped shared"
        for descriptor in slab_descriptors():
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.pwrite(descriptor, b"x", 0)
        view.fill_(0)
        assert daemon.shared_bytes(checkpoint.uris[0]) == [Path(checkpoint.uris[0]).read_bytes()]


def maps() -> str:
    return Path("/proc/self/maps").read_text()


def slab_descriptors() -> list[int]:
    """Descriptors of slabs that this process has open for reading only; the stand-in's own are open
    for writing too.
    """
    found = []
    for name in os.listdir("/proc/self/fd"):
        info = Path(f"/proc/self/fdinfo/{name}")
        if info.exists() and "/dev/shm/streamerd" in os.readlink(f"/proc/self/fd/{name}"):
            flags = int(re.findall(r"^flags:\s+(\d+)", info.read_text(), re.MULTILINE)[0], 8)
            if flags & os.O_ACCMODE == os.O_RDONLY:
                found.append(int(name))
    return found


@pytest.mark.parametrize("script", [Script(short_slabs=True, allowed_grants=0)])
def test_a_slab_smaller_than_its_shard_voids_the_daemons_word(
    daemon: ScriptedDaemon, client: Client, source: Path
) -> None:
    with pytest.raises(DaemonUnavailable, match="gave a slab of"):
        client.open(source)
    with open_client("auto", daemon.socket_path, reconnect_s=0) as auto:
        assert_right(auto, source, "direct")


@pytest.mark.parametrize("script", [Script(block_bytes=BLOCK, hands_out=False)])
def test_a_daemon_that_dies_before_it_hands_them_out(daemon: ScriptedDaemon, source: Path) -> None:
    found: list[BaseException] = []

    def open_it() -> None:
        with daemon_client(daemon.socket_path, reconnect_s=0) as client:
            try:
                client.open(source)
            except DaemonUnavailable as error:
                found.append(error)

    opening = threading.Thread(target=open_it)
    opening.start()
    eventually(lambda: daemon.open_loads, what="the load")
    daemon.kill()
    opening.join(30)
    assert len(found) == 1


@pytest.mark.parametrize("script", [Script(block_bytes=BLOCK, hands_out=False)])
def test_the_slab_of_a_shard_that_failed_is_not_waited_for(
    daemon: ScriptedDaemon, script: Script, client: Client, source: Path
) -> None:
    script.fail_shards = dict.fromkeys(range(SHARDS), MemoryLimitError("no room in /dev/shm"))
    with (
        client.open(source) as checkpoint,
        pytest.raises(MemoryLimitError, match="no room in /dev/shm"),
    ):
        list(checkpoint.tensors())


def test_slabs_of_a_refused_open_are_closed(
    daemon: ScriptedDaemon, script: Script, client: Client, source: Path
) -> None:
    script.refuse_open = RequestRefused("not now")
    with pytest.raises(RequestRefused, match="not now"):
        client.open(source)
    script.refuse_open = None
    assert_right(client, source)
    eventually(lambda: daemon.seen(Close), what="Close")
