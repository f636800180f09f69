"""The Debian package, built once, and one booted machine with it for all tests of a session."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import REPOSITORY
from tests.systemd.machine import Machine, why_not
from tests.systemd.node import MEMBER, ROOMY, STRANGER, TIGHT, Member, Node, started

BUILDS_WITH = ("dpkg-buildpackage", "dh", "dh_installsysusers")


@pytest.fixture(scope="session")
def package() -> Path:
    """The path of the package that `make deb` built."""
    missing = [name for name in BUILDS_WITH if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: dpkg-dev, debhelper)")
    if not Path("/usr/lib/python3.11/ensurepip").exists() and shutil.which("python3.11") is None:
        pytest.skip("needs python3-venv")
    made = subprocess.run(
        ["make", "deb"], cwd=REPOSITORY, check=False, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout + made.stderr
    (path,) = (REPOSITORY / "dist").glob("streamerd_*.deb")
    return path


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    booted = Machine(tmp_path_factory.mktemp("boot"))
    yield booted
    booted.close()


@pytest.fixture(scope="session")
def node(machine: Machine, package: Path) -> Iterator[Node]:
    """The machine with the package installed, two users, and a small /dev/shm."""
    node = Node(machine)
    node.run("mount", "-o", "remount,size=64M", "/dev/shm")
    node.files_before = node.files_of_ours()
    node.install(package)
    node.run("useradd", "--create-home", "--groups", "streamerd", MEMBER)
    node.run("useradd", "--create-home", STRANGER)
    yield node
    if machine.path("/usr/bin/streamerctl").exists():
        node.run("systemctl", "stop", "streamerd")


@pytest.fixture
def roomy(node: Node) -> Node:
    """The node, with the service started with room for everything."""
    started(node, memory_limit=ROOMY)
    return node


@pytest.fixture
def tight(node: Node) -> Node:
    """The node, with the service started with room for only a window."""
    started(node, memory_limit=TIGHT)
    return node


@pytest.fixture
def member(node: Node) -> Iterator[Member]:
    with Member(node) as client:
        yield client
