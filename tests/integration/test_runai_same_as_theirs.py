"""One program, run against `runai_model_streamer` 0.17 and against ours, sees the same.

What theirs told is recorded, so that the comparison needs no package; where one is at hand, the
record is checked too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.runai_package import MISSING, PACKAGE, PROGRAM, answers, interpreter, write_files

OURS = "streamer_client.runai"
RECORDED: dict[str, Any] = json.loads(PROGRAM.with_name("runai_0_17_answers.json").read_text())


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "files"
    directory.mkdir()
    write_files(directory)
    return directory


def test_without_a_daemon(files: Path) -> None:
    assert answers(sys.executable, OURS, files, STREAMERD_MODE="direct") == RECORDED


def test_through_a_daemon(files: Path, streamerd: DaemonProcess) -> None:
    environment = {"STREAMERD_MODE": "required", "STREAMERD_SOCKET": streamerd.socket}
    assert answers(sys.executable, OURS, files, **environment) == RECORDED
    assert streamerd.totals()["source_read_bytes"] > 0


def test_the_record_is_right(files: Path) -> None:
    python = interpreter()
    if python is None:
        pytest.skip(MISSING)
    assert answers(python, PACKAGE, files) == RECORDED
