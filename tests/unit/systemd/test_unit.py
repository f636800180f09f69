"""systemd/streamerd.service: how much of the machine it may touch, by systemd's own count."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[3] / "systemd" / "streamerd.service"
MOST_EXPOSURE = 13
"""The exposure in tenths; an empty unit has 96."""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_it_is_exposed_to_little() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    if subprocess.run([*command, "--version"], check=False, capture_output=True).returncode:
        pytest.skip("this systemd-analyze looks at no unit that is not installed")
    done = subprocess.run(
        [*command, f"--threshold={MOST_EXPOSURE}", str(UNIT)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_it_sees_whose_a_client_is_and_hands_slabs_out_read_only() -> None:
    lines = UNIT.read_text().splitlines()
    assert "PrivateUsers=no" in lines
    assert "BindReadOnlyPaths=/dev/shm:/run/streamerd-shm" in lines
    assert "ProtectHome=yes" in lines
