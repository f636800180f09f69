"""An upgrade to the package's next version, and its removal.

This file comes last: afterwards the node is bare.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from streamer_client.contract.socket import SYSTEM_SOCKET
from streamerd.control.instance import SUFFIX
from tests.support.daemon import REPOSITORY
from tests.systemd.node import CONFIG, MODEL_BYTES, Member, Node

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def newer(package: Path, tmp_path: Path) -> Path:
    """The package's next version, with a changed configuration file."""
    tree = tmp_path / "package"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: (.*)$", r"Version: \1.1", control.read_text()))
    with (tree / CONFIG.lstrip("/")).open("a") as config:
        config.write("# new in this version\n")
    path = tmp_path / "newer.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def test_an_upgrade_keeps_configuration_and_memory(
    roomy: Node, member: Member, newer: Path
) -> None:
    model = roomy.model("upgraded")
    member.load(model)
    edited = roomy.machine.path(CONFIG).read_text()
    pid = roomy.main_pid
    roomy.install(newer, "-o", "Dpkg::Options::=--force-confold")
    assert roomy.restarted(pid)
    assert roomy.show("UnitFileState") == "disabled"
    assert roomy.machine.path(CONFIG).read_text() == edited
    assert "new in this version" in roomy.machine.path(CONFIG + ".dpkg-dist").read_text()
    assert roomy.resident_bytes() == MODEL_BYTES
    assert member.load(model) == "daemon"


def test_purging_leaves_nothing(roomy: Node, member: Member) -> None:
    member.load(roomy.model("purged"))
    roomy.run("dpkg", "--remove", "streamerd")
    left = "find /run/streamerd* /dev/shm -name '*streamerd*'"
    assert roomy.run("bash", "-c", left, check=False).stdout == ""
    assert roomy.machine.path(CONFIG).exists()
    roomy.run("dpkg", "--purge", "streamerd")
    assert roomy.files_of_ours() == roomy.files_before
    for database in ("passwd", "group"):
        assert roomy.run("getent", database, "streamerd", check=False).stdout == ""
    # 4 means that systemd does not know the unit.
    assert roomy.run("systemctl", "status", "streamerd", check=False).returncode == 4


def test_the_scripts_read_whose_slabs_are_the_system_daemons() -> None:
    root = REPOSITORY / "systemd"
    for script in (root / "uninstall", root / "debian" / "streamerd.postrm"):
        assert SYSTEM_SOCKET + SUFFIX in script.read_text()
