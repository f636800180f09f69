"""The Debian package as a file: lintian's verdict, its content, and its dependencies."""

from __future__ import annotations

import re
import shutil
import subprocess
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

import streamerd
from tests.support.daemon import REPOSITORY

pytestmark = pytest.mark.timeout(240)


def _told(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_lintian_has_nothing_to_say(package: Path) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("needs lintian")
    assert _told("lintian", "--fail-on", "error,warning", package) == ""


def test_it_carries_all_that_a_node_needs_and_no_torch(package: Path) -> None:
    files = {line.split()[5].lstrip(".") for line in _told("dpkg", "-c", package).splitlines()}
    assert {
        "/etc/streamerd/streamerd.toml",
        "/lib/systemd/system/streamerd.service",
        "/usr/bin/streamerctl",
        "/usr/bin/streamerd",
        "/usr/lib/sysusers.d/streamerd.conf",
        "/usr/lib/tmpfiles.d/streamerd.conf",
        "/usr/share/doc/streamerd/changelog.gz",
        "/usr/share/doc/streamerd/operations.md",
        "/usr/share/doc/streamerd/release-notes.md",
        "/usr/share/bash-completion/completions/streamerctl",
        "/usr/share/fish/vendor_completions.d/streamerctl.fish",
        "/usr/share/man/man1/streamerctl.1.gz",
        "/usr/share/man/man8/streamerd.8.gz",
        "/usr/share/zsh/vendor-completions/_streamerctl",
    } <= files
    packages = {path.split("/site-packages/")[1] for path in files if "/site-packages/" in path}
    assert any(name.startswith("boto3/") for name in packages)
    assert not any(re.match("torch|vllm|numpy|pip|setuptools", name) for name in packages)


def test_its_pages_find_each_other(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    pages = tmp_path / "usr/share/doc/streamerd"
    found = re.findall(r"\]\(([\w-]+\.md)[)#]", (pages / "operations.md").read_text())
    assert found
    assert not [name for name in found if not (pages / name).is_file()]


def test_it_asks_for_the_python_that_it_was_built_with(package: Path) -> None:
    depends = _told("dpkg-deb", "-f", package, "Depends")
    version = _told("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2])").split()
    major, minor = map(int, version)
    assert f"python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1})" in depends


def test_its_configuration_is_a_conffile(package: Path) -> None:
    conffiles = _told("dpkg-deb", "--info", package, "conffiles").split()
    assert conffiles == ["/etc/streamerd/streamerd.toml"]


def test_its_version_is_the_daemons_and_its_date_the_changelogs(package: Path) -> None:
    assert _told("dpkg-deb", "-f", package, "Version") == f"{streamerd.__version__}\n"
    told = _told("dpkg-parsechangelog", "-l", REPOSITORY / "build/deb/streamerd/debian/changelog")
    date = re.search(r"(?m)^Date: (.*)$", told)
    assert date is not None
    day = parsedate_to_datetime(date[1]).date()
    assert f"\n## [{streamerd.__version__}] - {day}\n" in (REPOSITORY / "CHANGELOG.md").read_text()
