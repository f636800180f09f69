"""`make install-systemd` and `uninstall-systemd` below a DESTDIR."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import REPOSITORY

pytestmark = pytest.mark.timeout(240)


def _make(target: str, destination: Path) -> None:
    command = ["make", target]
    environ = os.environ | {"DESTDIR": str(destination)}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environ, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if not path.is_dir() or path.is_symlink()]


def test_it_installs_below_destdir_and_takes_all_of_it_away(tmp_path: Path) -> None:
    probe = ["/usr/bin/python3", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if not Path(probe[0]).exists() or subprocess.run(probe, check=False).returncode:
        pytest.skip("needs /usr/bin/python3 of 3.11 or newer")
    _make("install-systemd", tmp_path)
    unit = tmp_path / "usr/local/lib/systemd/system/streamerd.service"
    assert "ExecStart=/opt/streamerd/bin/streamerd\n" in unit.read_text()
    script = (tmp_path / "opt/streamerd/bin/streamerctl").read_text()
    assert script.startswith("#!/opt/streamerd/bin/python3 -I\n")
    assert (tmp_path / "usr/local/bin/streamerctl").resolve() == (
        tmp_path / "opt/streamerd/bin/streamerctl"
    )
    for path in _files(tmp_path):
        if path.is_file() and not path.is_symlink():
            assert str(tmp_path).encode() not in path.read_bytes(), path
    config = tmp_path / "etc/streamerd/streamerd.toml"
    config.write_text("threads = 2\n")
    _make("uninstall-systemd", tmp_path)
    assert _files(tmp_path) == [config], "an edited configuration stays, and nothing else"
