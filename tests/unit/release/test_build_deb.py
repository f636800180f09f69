"""`make deb` says at once which tools are missing, all of them, and what to type."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH on which there is a shell and none of Debian's tools."""
    for name in ("bash", "dirname", "env"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    return tmp_path


def test_what_is_missing_is_told_before_anything_is_built(bare: Path) -> None:
    done = subprocess.run(
        [ROOT / "systemd" / "build-deb", "check"],
        env=os.environ | {"PATH": str(bare)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    told, remedy = done.stderr.splitlines()
    assert "dpkg-dev build-essential debhelper" in told
    assert remedy.startswith("make deb: apt-get install dpkg-dev build-essential debhelper")
