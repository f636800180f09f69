"""The man pages describe every command and flag, in roff that man renders without a warning."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from docs.command_line import control, daemon
from docs.make_man_pages import control_page, daemon_page, main


def _plain(page: str) -> str:
    return re.sub(r"\\f[BIR]", "", page).replace(r"\-", "-")


def test_every_flag_of_the_daemon_is_told_with_its_help() -> None:
    page = _plain(daemon_page())
    for option in daemon().options:
        assert f".TP\n{', '.join(option.flags)} {option.metavar}".rstrip() in page
        assert option.help in page.replace(r"\(aq", "'")
    assert "--memory-limit SIZE" in page


def test_every_command_has_a_section_with_its_flags_and_example() -> None:
    page = _plain(control_page()).replace(r"\(aq", "'")
    _, commands = control()
    assert {"status", "prefetch", "config"} <= {command.name for command in commands}
    for command in commands:
        section = page.partition(f".SS {command.name}")[2].partition(".SS")[0]
        assert command.help in section
        assert command.example.startswith(f"streamerctl {command.name}")
        assert command.example in section
        for option in command.options:
            assert "--help" in option.flags or option.help in section


@pytest.mark.skipif(shutil.which("man") is None, reason="man-db is not installed")
def test_man_renders_them_without_a_warning(tmp_path: Path) -> None:
    main(str(tmp_path))
    for name in ("streamerd.8", "streamerctl.1"):
        command = ["man", "--warnings", "--encoding=utf8", "--local-file", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert "EXIT STATUS" in done.stdout
