"""systemd/streamerd.toml agrees with the table of settings, and every line of it works."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from streamerd.memory.room import MemoryRoom
from streamerd.settings.config import load_settings
from streamerd.settings.table import KEYS

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "systemd" / "streamerd.toml"
ROOM = MemoryRoom(256 << 30, None, 256 << 30)
SERVICE = {"RUNTIME_DIRECTORY": "/run/streamerd"}


def test_the_file_is_the_table() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_example_config.py"))
    assert made["example"]() == EXAMPLE.read_text(), "run `make example-config`"


def test_as_installed_it_changes_nothing() -> None:
    assert load_settings({}, SERVICE, str(EXAMPLE), ROOM) == load_settings({}, SERVICE, None, ROOM)


def test_with_every_line_switched_on_it_says_the_defaults(tmp_path: Path) -> None:
    switched_on = re.sub(r"(?m)^#(?=\w+ = )", "", EXAMPLE.read_text())
    path = tmp_path / "streamerd.toml"
    path.write_text(switched_on)
    settings, origins = load_settings({}, SERVICE, str(path), ROOM)
    assert origins == dict.fromkeys((key.name for key in KEYS), str(path))
    machines = {"memory_limit": "64GiB", "workers": "1", "socket_mode": "0660"}
    defaults = load_settings(machines, SERVICE, None, ROOM)[0]
    assert settings == defaults
