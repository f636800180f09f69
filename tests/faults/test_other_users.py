"""Other users of the machine: each gets what it may read itself, and nothing through the daemon.

A service of a user of its own, members of the group that may use its socket, and strangers, as
`setpriv` makes them. Promises shown: no more and no less than the caller may read; slabs belong to
the daemon alone; a client trusts nobody's socket but its own user's, root's, or the service's at
its place.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.contract.handover import Refused
from streamer_client.contract.limits import MAX_CLIENTS_PER_USER
from streamer_client.contract.messages import Failed, GetStatus, Status
from streamer_client.contract.socket import descriptor_socket
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons, daemons
from tests.support.descriptor_peer import DescriptorPeer, greeting_of
from tests.support.visitor import Visitor, digests_of
from tests.support.waiting import eventually
from tests.support.worlds import (
    GROUP,
    MEMBER,
    OTHER_MEMBER,
    SERVICE,
    STRANGER,
    as_member,
    as_user,
    give,
    needs_root,
    shards_of,
    shared_folder,
    totals_of,
)

pytestmark = needs_root()


@pytest.fixture(scope="module")
def run() -> Iterator[Path]:
    with shared_folder(SERVICE, GROUP) as folder:
        yield folder


@pytest.fixture(scope="module")
def service(run: Path) -> Iterator[DaemonProcess]:
    """A daemon of its own user, whose socket is its group's."""
    with daemons() as made:
        path = run / "control.sock"
        before = as_user(SERVICE, GROUP)
        daemon = made.make("--socket-mode=0660", socket_path=path, before=before).start()
        yield daemon
        daemon.end()


@pytest.fixture
def home() -> Iterator[Path]:
    """Of a member, which nobody else may enter."""
    with shared_folder(MEMBER, MEMBER, 0o700) as folder:
        yield folder


@pytest.fixture
def model(home: Path) -> list[Path]:
    """Three blocks in a member's home, whose files everybody could read."""
    files = write_model(home / "m", shards=1, blocks=3)
    give([home / "m"], MEMBER, 0o755)
    give(files, MEMBER)
    return files


# --- what a member gets ---------------------------------------------------------------------------


def test_a_model_in_a_closed_home_is_served_from_memory(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    """The service may not enter that home, and need not."""
    before = totals_of(service.socket)["source_read_bytes"]
    for resident_bytes in (0, 3 * BLOCK):
        with Visitor(as_member()) as client:
            found = client.load(service.socket, home / "m")
        assert found["digests"] == digests_of(model)
        assert (found["mode"], found["resident_bytes"]) == ("daemon", resident_bytes)
    assert totals_of(service.socket)["source_read_bytes"] - before == 3 * BLOCK


def test_two_users_of_one_file_share_what_is_in_memory(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    """Each by a descriptor of its own, also when the first to bring one is gone."""
    home.chmod(0o755)
    with Visitor(as_member()) as owner, Visitor(as_member(OTHER_MEMBER)) as other:
        owner.load(service.socket, home / "m")
        owner.kill()
        found = other.load(service.socket, home / "m")
    assert (found["resident_bytes"], found["digests"]) == (3 * BLOCK, digests_of(model))


@pytest.mark.parametrize("mode", ["required", "auto"])
def test_another_member_gets_nothing_of_a_closed_home(
    service: DaemonProcess, home: Path, model: list[Path], mode: str
) -> None:
    with Visitor(as_member()) as owner, Visitor(as_member(OTHER_MEMBER)) as other:
        owner.load(service.socket, home / "m")
        other.ask("connect", socket=service.socket, mode=mode)
        for do in ("open", "prefetch", "pin", "evict"):
            refused = other.refused(do, source=str(model[0]))
            assert refused.kind in ("SourceForbidden", "SourceNotFound"), refused.text
    rows = [row for row in shards_of(service.socket) if row["uri"] == str(model[0])]
    assert [row["resident_bytes"] for row in rows] == [3 * BLOCK]


def test_a_file_of_the_services_own_user_is_not_to_be_had_through_it(
    service: DaemonProcess, run: Path
) -> None:
    """The daemon may read it; who asks may not."""
    files = write_model(run / "own", shards=1, blocks=1)
    give(files, SERVICE, 0o600)
    with Visitor(as_member()) as client:
        client.ask("connect", socket=service.socket)
        assert client.refused("open", source=str(files[0])).kind == "SourceForbidden"
        assert client.refused("prefetch", source=str(files[0])).kind == "SourceForbidden"


def test_a_file_that_was_closed_to_a_user_after_it_was_cached(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    """What lies in memory is nobody's right: each newcomer's own right to the file counts."""
    home.chmod(0o755)
    with Visitor(as_member(OTHER_MEMBER)) as other:
        other.load(service.socket, home / "m")
        model[0].chmod(0o600)
        assert other.refused("open", source=str(home / "m")).kind == "SourceForbidden"
    with Visitor(as_member()) as owner:
        assert owner.load(service.socket, home / "m")["resident_bytes"] == 3 * BLOCK


def test_a_path_alone_is_no_right(service: DaemonProcess, home: Path, model: list[Path]) -> None:
    """An O_PATH descriptor of a readable folder's closed file passes `fstat`, and no more."""
    home.chmod(0o755)
    model[0].chmod(0o600)
    with Visitor(as_member()) as owner, Visitor(as_member(OTHER_MEMBER)) as other:
        owner.load(service.socket, home / "m")
        asked = {"socket": service.socket, "path": str(model[0]), "flags": os.O_PATH}
        assert other.ask("pass_by_hand", **asked)["answer"] == "source-forbidden"


def test_a_file_that_may_only_be_written_is_not_to_be_read_through_the_daemon(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    home.chmod(0o755)
    model[0].chmod(0o602)
    with Visitor(as_member()) as owner, Visitor(as_member(OTHER_MEMBER)) as other:
        owner.load(service.socket, home / "m")
        asked = {"socket": service.socket, "path": str(model[0]), "flags": os.O_WRONLY}
        assert other.ask("pass_by_hand", **asked)["answer"] == "source-forbidden"


def test_a_member_unpins_only_what_it_pinned(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    home.chmod(0o755)
    source = str(model[0])
    with Visitor(as_member()) as owner, Visitor(as_member(OTHER_MEMBER)) as other:
        for client in (owner, other):
            client.load(service.socket, home / "m")
        owner.ask("pin", source=source)
        assert other.refused("unpin", source=source).kind == "RequestRefused"
        assert other.refused("evict", source=source).kind == "RequestRefused"
        owner.ask("unpin", source=source)
        other.ask("evict", source=source)


# --- slabs ----------------------------------------------------------------------------------------


def test_a_member_reads_its_slabs_and_can_do_nothing_else_with_them(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    with Visitor(as_member()) as client:
        client.ask("connect", socket=service.socket)
        client.ask("open", source=str(home / "m"))
        found = client.ask("read")
        pried = client.ask("pry")
        assert (pried["descriptors"], pried["broken"]) == (1, [])
        assert pried["names"] >= 1
    with Visitor(as_member()) as client:
        assert client.load(service.socket, home / "m")["digests"] == found["digests"]


def test_nobody_but_the_daemon_has_a_right_to_a_slab_by_name(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    """Not its group either: members share what they may read, not what others may."""
    with Visitor(as_member()) as client:
        client.load(service.socket, home / "m")
    for name in service.segments():
        found = os.stat(f"/dev/shm/{name}")
        assert (found.st_mode & 0o777, found.st_uid) == (0o600, SERVICE)
    for command in (as_user(OTHER_MEMBER, GROUP), as_user(STRANGER)):
        with Visitor(command) as other:
            assert other.ask("pry")["broken"] == []


def test_a_mate_of_the_users_primary_group_gets_nothing_from_the_users_own_daemon(
    daemon_maker: Daemons, home: Path, model: list[Path]
) -> None:
    """The default is a socket, and slabs, for the user alone."""
    daemon = daemon_maker.make(socket_path=home / "control.sock", before=as_user(MEMBER)).start()
    home.chmod(0o755)
    mate = as_user(OTHER_MEMBER, MEMBER)
    with Visitor(as_user(MEMBER)) as owner, Visitor(mate) as other:
        owner.load(daemon.socket, home / "m")
        assert other.refused("connect", socket=daemon.socket).kind in (
            "RequestRefused",
            "UntrustedSocket",
        )
        assert other.ask("pry")["broken"] == []
    for path in (daemon.socket, descriptor_socket(daemon.socket)):
        assert os.stat(path).st_mode & 0o777 == 0o600
    assert daemon.sidecars.stat().st_mode & 0o077 == 0


# --- who may connect ------------------------------------------------------------------------------


def test_a_stranger_to_the_group_cannot_connect(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    with Visitor(as_user(STRANGER)) as client:
        refused = client.refused("connect", socket=service.socket)
    assert refused.kind == "RequestRefused"
    assert "group" in refused.text


def test_a_token_is_of_no_use_to_another_connection(service: DaemonProcess) -> None:
    """Who knows another client's token still is not it: the token says who speaks, in one place."""
    with DescriptorPeer(service.socket) as owner, DescriptorPeer(service.socket) as thief:
        thief.send(GetStatus(7), token=owner.token)
        assert isinstance(thief.message(), Failed)
        owner.send(GetStatus(8))
        assert isinstance(owner.message(), Status)


# --- whom a client talks to -----------------------------------------------------------------------


class Squatter:
    """A user who was there first: listens at a place, and keeps what it hears."""

    def __init__(self, folder: Path, uid: int) -> None:
        folder.mkdir()
        self.path = folder / "control.sock"
        self._kinds = (socket.SOCK_SEQPACKET, socket.SOCK_STREAM)
        self._names = (descriptor_socket(str(self.path)), str(self.path))
        self._read_end, write_end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._read_end)
            self._listen(folder, uid, write_end)
        os.close(write_end)
        assert os.read(self._read_end, 1) == b"."

    def _listen(self, folder: Path, uid: int, ready: int) -> None:
        try:
            os.chown(folder, uid, uid)
            os.setgid(uid)
            os.setuid(uid)
            for kind, name in zip(self._kinds, self._names, strict=True):
                made = socket.socket(socket.AF_UNIX, kind)
                made.bind(name)
                os.chmod(name, 0o777)  # noqa: S103  so that its victim can connect
                made.listen()
                made.detach()
            os.write(ready, b".")
            signal.pause()
        finally:
            os._exit(0)

    def connections(self) -> int:
        """Of the two sockets, as the kernel's table shows them."""
        rows = Path("/proc/net/unix").read_text().splitlines()
        return sum(row.endswith(str(self.path)) and row.split()[5] == "03" for row in rows)

    def end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._read_end)
        shutil.rmtree(self.path.parent)


@pytest.fixture
def squatter() -> Iterator[Squatter]:
    """In the place below /tmp where a user's own daemon would be."""
    squatter = Squatter(Path(f"/tmp/streamerd-{MEMBER}"), STRANGER)
    yield squatter
    squatter.end()


def test_a_socket_that_another_user_made_first_is_not_used(
    squatter: Squatter, home: Path, model: list[Path]
) -> None:
    with Visitor(as_user(MEMBER)) as client:
        refused = client.refused("connect", socket=str(squatter.path))
        assert refused.kind == "UntrustedSocket"
        assert str(STRANGER) in refused.text


def test_where_another_user_was_first_the_next_place_is_taken(
    squatter: Squatter, home: Path, model: list[Path]
) -> None:
    """`auto` starts this user's own daemon below its home."""
    environ = {
        "XDG_RUNTIME_DIR": "",
        "HOME": str(home),
        "STREAMERD_MEMORY_LIMIT": str(16 << 20),
    }
    with Visitor(as_user(MEMBER), environ) as client:
        found = client.ask("connect", socket=None, mode="auto")
        try:
            assert found["socket"] not in (None, str(squatter.path))
            client.ask("open", source=str(home / "m"))
            assert client.ask("read")["digests"] == digests_of(model)
            assert squatter.connections() == 0
        finally:
            _end_own(client, Path(found["socket"]))


def _end_own(client: Visitor, path: Path) -> None:
    pid = client.ask("status")["pid"]
    client.ask("leave")
    os.kill(pid, signal.SIGINT)  # as from its terminal: it takes its slabs along
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    for left in path.parent.iterdir():
        left.unlink()
    path.parent.rmdir()


def test_where_only_another_user_listens_required_fails_and_auto_reads_by_itself(
    squatter: Squatter, home: Path, model: list[Path]
) -> None:
    """Also where the environment names that place."""
    environ = {"STREAMERD_SOCKET": str(squatter.path)}
    with Visitor(as_user(MEMBER), environ) as client:
        assert client.refused("connect", socket=None).kind == "UntrustedSocket"
        assert client.ask("connect", socket=None, mode="auto")["socket"] is None
        client.ask("open", source=str(home / "m"))
        found = client.ask("read")
    assert (found["mode"], found["digests"]) == ("direct", digests_of(model))
    assert squatter.connections() == 0


def test_a_link_to_another_users_socket_is_not_followed(
    squatter: Squatter, home: Path, model: list[Path]
) -> None:
    """The folder is this user's; what stands in it leads away."""
    own = home / "own"
    own.mkdir()
    os.chown(own, MEMBER, MEMBER)
    for suffix in ("", ".fd"):
        (own / f"control.sock{suffix}").symlink_to(f"{squatter.path}{suffix}")
    with Visitor(as_user(MEMBER)) as client:
        assert client.refused("connect", socket=str(own / "control.sock")).kind == "UntrustedSocket"


def test_a_folder_that_the_group_may_write_to_is_not_trusted(
    service: DaemonProcess, run: Path
) -> None:
    """A mate could put another socket there, any time."""
    run.chmod(0o775)
    with Visitor(as_member()) as client:
        refused = client.refused("connect", socket=service.socket)
    run.chmod(0o755)
    assert refused.kind == "UntrustedSocket"
    assert f"group {GROUP}" in refused.text


# --- what lies beside the socket ------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".lock", ".instance", "", ".fd", ".slabs"])
def test_a_link_in_the_place_of_a_daemons_file_is_refused_and_its_target_untouched(
    daemon_maker: Daemons, home: Path, suffix: str
) -> None:
    victim = home / "precious"
    victim.write_text("kept")
    give([victim], MEMBER, 0o600)
    link = home / f"control.sock{suffix}"
    link.symlink_to(victim)
    os.chown(link, MEMBER, MEMBER, follow_symlinks=False)
    daemon = daemon_maker.make(socket_path=home / "control.sock", before=as_user(MEMBER))
    assert daemon.run_to_its_end() == 78
    assert str(link) in daemon.log
    assert victim.read_text() == "kept"
    link.unlink()


def test_root_serves_others_only_where_that_is_meant(daemon_maker: Daemons, tmp_path: Path) -> None:
    daemon = daemon_maker.make("--socket-mode=0660")
    assert daemon.run_to_its_end() == 78
    assert "allow_root" in daemon.log
    assert daemon_maker.start("--socket-mode=0660", "--allow-root").stop() == 0


def test_clients_for_each_user_are_bounded_and_others_still_served(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    """One member that connects without end shuts nobody else out."""
    taken = []
    try:
        while True:
            connection, packet = greeting_of(service.socket)
            taken.append(connection)
            if isinstance(packet, Refused):
                break
            assert len(taken) <= MAX_CLIENTS_PER_USER
        assert packet.code == "refused"
        with Visitor(as_member()) as client:
            assert client.load(service.socket, home / "m")["mode"] == "daemon"
    finally:
        for connection in taken:
            connection.close()
