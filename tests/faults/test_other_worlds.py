"""Clients in other containers: each gets its own bytes from memory, and leaves nothing behind.

The namespaces are real. Promises shown: a path means something only to its own process; a container
shares one folder with the daemon and nothing else; the connection is the lease.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.unprivileged import open_to_others
from tests.support.visitor import PROGRAM, REPOSITORY, Visitor, digests_of, kill_and_wait
from tests.support.waiting import eventually
from tests.support.worlds import (
    GROUP,
    MEMBER,
    SERVICE,
    STRANGER,
    World,
    as_member,
    as_user,
    give,
    leased_bytes,
    needs_root,
    shared_folder,
    totals_of,
)

pytestmark = needs_root()

MODEL_BYTES = 4 * BLOCK


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with a member's model, which a container has and the daemon does not have."""
    folder = tmp_path / "models"
    files = write_model(folder / "llama", shards=2, blocks=2)
    give([folder, folder / "llama"], MEMBER, 0o700)
    give(files, MEMBER, 0o600)
    open_to_others(tmp_path)
    return folder


@pytest.fixture
def service(daemon_maker: Daemons, models: Path) -> Iterator[DaemonProcess]:
    """A daemon with a user of its own, in a mount namespace that does not have the models."""
    with shared_folder(SERVICE, GROUP) as folder:
        daemon = daemon_maker.make(
            "--socket-mode=0660",
            socket_path=folder / "control.sock",
            before=World(hidden=(models,), shm=True, pids=True).enter(as_user(SERVICE, GROUP)),
        ).start()
        yield daemon
        daemon.end()


def test_a_container_shares_one_folder_with_the_daemon_and_nothing_else(
    service: DaemonProcess, models: Path, tmp_path: Path
) -> None:
    """The client has another user, /dev/shm, mounts, pids and ipc, and the model at a path that
    only it knows.
    """
    files = sorted((models / "llama").iterdir())
    inside = tmp_path / "inside"
    inside.mkdir(mode=0o755)
    world = World(bound=((models / "llama", inside),))
    for visit, resident_bytes in enumerate((0, MODEL_BYTES)):
        with Visitor(world.enter(as_member())) as client:
            found = client.load(service.socket, inside)
        assert found["digests"] == digests_of(files), visit
        assert found["mode"] == "daemon"
        assert found["resident_bytes"] == resident_bytes
    assert totals_of(service.socket)["source_read_bytes"] == MODEL_BYTES


def test_a_container_of_bubblewrap(service: DaemonProcess, models: Path) -> None:
    if (bwrap := shutil.which("bwrap")) is None:
        pytest.skip("needs bubblewrap")
    folder = Path(service.socket).parent
    roots = {path for path in ("/usr", "/lib", "/lib64", "/bin", "/etc") if Path(path).exists()}
    roots |= {sys.prefix, sys.base_prefix, str(REPOSITORY)}
    command = [
        bwrap, "--unshare-all", "--die-with-parent", "--dev", "/dev", "--tmpfs", "/tmp", "--proc",
        "/proc", "--bind", str(folder), "/srv/streamerd", "--ro-bind", str(models), "/models",
    ]  # fmt: skip
    for root in sorted(roots):
        command += ["--ro-bind", root, root]
    command = [*as_member(), *command, "--chdir", str(REPOSITORY), "--"]
    tried = subprocess.run(
        [*command, *PROGRAM], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"bubblewrap cannot make containers here: {tried.stderr.strip()}")
    for resident_bytes in (0, MODEL_BYTES):
        with Visitor(command) as client:
            found = client.load("/srv/streamerd/control.sock", "/models/llama")
        assert found["digests"] == digests_of(sorted((models / "llama").iterdir()))
        assert (found["mode"], found["resident_bytes"]) == ("daemon", resident_bytes)


def test_root_of_a_user_namespace_gets_what_its_user_gets(
    service: DaemonProcess, models: Path
) -> None:
    """The user that is root in the namespace is the member to the daemon.

    Foreign owners look like nobody there.
    """
    files = sorted((models / "llama").iterdir())
    command = [*as_member(), "unshare", "--user", "--map-root-user", "--mount", "--ipc"]
    with Visitor(command) as client:
        found = client.load(service.socket, models / "llama")
        assert (found["mode"], found["digests"]) == ("daemon", digests_of(files))
        client.ask("open", source=str(models / "llama"))
        assert client.ask("pry")["broken"] == []


# --- one path, other models -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["required", "auto"])
def test_one_path_in_two_mount_namespaces_is_two_models(
    streamerd: DaemonProcess, tmp_path: Path, mode: str
) -> None:
    """Path, names, sizes and times are the same, and each client gets the model that it
    has itself.
    """
    at = tmp_path / "models"
    at.mkdir()
    mine = write_model(tmp_path / "a" / "m", shards=2, blocks=2, seed=1)
    theirs = write_model(tmp_path / "b" / "m", shards=2, blocks=2, seed=5)
    for one, other in zip(mine, theirs, strict=True):
        shutil.copystat(one, other)
    worlds = [World(bound=((tmp_path / name, at),), shm=True, pids=True) for name in "ab"]
    for _ in range(2):
        for world, files in zip(worlds, (mine, theirs), strict=True):
            with Visitor(world.enter()) as client:
                found = client.load(streamerd.socket, at / "m", mode=mode)
            assert found["digests"] == digests_of(files)
            assert found["mode"] == "daemon"


def test_what_the_daemon_itself_has_at_the_path_is_nobodys_model(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    """The daemon opens no path that a client names, also if it has a file there."""
    daemons = write_model(tmp_path / "models" / "m", shards=1, blocks=2, seed=1)
    mine = write_model(tmp_path / "mine" / "m", shards=1, blocks=2, seed=2)
    world = World(bound=((tmp_path / "mine", tmp_path / "models"),), shm=True, pids=True)
    with Visitor(world.enter()) as client:
        found = client.load(streamerd.socket, tmp_path / "models" / "m")
    assert found["digests"] == digests_of(mine) != digests_of(daemons)
    reads_of_daemon = totals_of(streamerd.socket)["source_read_bytes"]
    with Visitor() as client:
        assert client.load(streamerd.socket, tmp_path / "models" / "m")["digests"] == digests_of(
            daemons
        )
    assert totals_of(streamerd.socket)["source_read_bytes"] == 2 * reads_of_daemon


def test_a_model_that_only_the_daemon_has_is_not_to_be_had(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    write_model(tmp_path / "models" / "m", shards=1, blocks=2)
    world = World(hidden=(tmp_path / "models",), shm=True, pids=True)
    with Visitor(world.enter()) as client:
        client.ask("connect", socket=streamerd.socket)
        path = tmp_path / "models" / "m" / "m-0.safetensors"
        refused = client.refused("open", source=str(path.parent))
        assert refused.kind in ("SourceNotFound", "FileNotFoundError")
        with pytest.raises(AssertionError, match="SourceNotFound"):
            client.ask("prefetch", source=str(path))


# --- the connection is the lease ------------------------------------------------------------------


def test_a_client_killed_in_a_sibling_pid_namespace_leaves_no_lease(
    daemon_maker: Daemons, tmp_path: Path
) -> None:
    """Neither can see the other's process.

    If only heartbeats told, the leases would last for minutes.
    """
    before = World(shm=True).enter()
    daemon = daemon_maker.make("--heartbeat-s=60", before=before).start()
    write_model(tmp_path / "m", shards=1, blocks=4)
    try:
        with Visitor(World().enter()) as client:
            client.ask("connect", socket=daemon.socket)
            client.ask("open", source=str(tmp_path / "m"))
            client.ask("read")
            assert leased_bytes(daemon.socket) == 4 * BLOCK
            client.kill()
            eventually(lambda: leased_bytes(daemon.socket) == 0, 5.0)
    finally:
        daemon.kill()


def test_a_forked_child_that_lives_on_keeps_no_lease(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    write_model(tmp_path / "m", shards=1, blocks=4)
    with Visitor() as client:
        client.ask("connect", socket=streamerd.socket)
        client.ask("open", source=str(tmp_path / "m"))
        client.ask("read")
        child = client.ask("fork")["pid"]
        try:
            assert leased_bytes(streamerd.socket) == 4 * BLOCK
            client.kill()
            eventually(lambda: leased_bytes(streamerd.socket) == 0, 5.0)
        finally:
            kill_and_wait(child)


def test_a_forked_child_that_ends_takes_nothing_from_its_parent(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    write_model(tmp_path / "m", shards=1, blocks=4)
    with Visitor() as client:
        client.ask("connect", socket=streamerd.socket)
        client.ask("open", source=str(tmp_path / "m"))
        kill_and_wait(client.ask("fork")["pid"])
        assert client.ask("read")["mode"] == "daemon"
        assert leased_bytes(streamerd.socket) == 4 * BLOCK


# --- two daemons ----------------------------------------------------------------------------------


@pytest.fixture
def two_daemons(
    daemon_maker: Daemons, tmp_path: Path
) -> Iterator[list[tuple[DaemonProcess, World]]]:
    """Two daemons at one path, each in its own mount namespace, with a common /dev/shm."""
    at = tmp_path / "run"
    at.mkdir()
    made = []
    for name in "ab":
        (tmp_path / name).mkdir()
        world = World(bound=((tmp_path / name, at),), shm=True, pids=True)
        daemon = daemon_maker.make(before=world.enter(), socket_path=tmp_path / name / "s")
        made.append((daemon, world))
    yield made
    for daemon, _ in made:
        daemon.end()


def _start_at(daemon: DaemonProcess, path: Path) -> None:
    """Start a daemon that gets another path than the one by which this process finds it."""
    found_at, daemon.socket = daemon.socket, str(path)
    # Where this process looks, another instance lies beside the path that the daemon is given. It
    # is not the daemon's instance.
    path.with_name("s.instance").write_text("00000000\n")
    try:
        daemon.start()
    finally:
        path.with_name("s.instance").unlink()
        daemon.socket = found_at


def test_two_daemons_of_one_socket_path_leave_each_others_slabs(
    two_daemons: list[tuple[DaemonProcess, World]], tmp_path: Path
) -> None:
    """Neither daemon takes the other's slabs for those of its own earlier life."""
    path = tmp_path / "run" / "s"
    files = write_model(tmp_path / "m", shards=1, blocks=4)

    def load(world: World) -> int:
        with Visitor(world.enter()) as client:
            found = client.load(path, tmp_path / "m")
        assert found["digests"] == digests_of(files)
        resident_bytes: int = found["resident_bytes"]
        return resident_bytes

    for daemon, world in two_daemons:
        _start_at(daemon, path)
        assert load(world) == 0
    (first, _), (second, _) = two_daemons
    assert first.instance != second.instance
    slabs = [first.segments(), second.segments()]
    assert list(map(len, slabs)) == [1, 1]
    # The first daemon leaves its slab for the next one, and looks only for slabs of its own.
    first.stop()
    assert [first.segments(), second.segments()] == slabs
    _start_at(first, path)
    assert len(first.segments()) == 1
    assert second.segments() == slabs[1]
    for _, world in two_daemons:
        assert load(world) == 4 * BLOCK


def test_a_stranger_in_a_container_may_not_use_the_service(
    service: DaemonProcess, models: Path
) -> None:
    with Visitor(World().enter(as_user(STRANGER))) as client:
        refused = client.refused("connect", socket=service.socket)
    assert refused.kind == "RequestRefused"
    assert "group" in refused.text
