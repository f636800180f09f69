"""One program sees the same of `runai_model_streamer` 0.17 and of `streamer_client.runai`.

The answers of Run:ai's package are recorded, so that the comparison does not need that package.
Where it is installed, the record is checked too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.runai_package import (
    OURS,
    PACKAGE,
    PROGRAM,
    answers,
    package_missing,
    write_files,
)

RECORDED: dict[str, Any] = json.loads(PROGRAM.with_name("runai_0_17_answers.json").read_text())


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "files"
    directory.mkdir()
    write_files(directory)
    return directory


def test_without_a_daemon(files: Path) -> None:
    assert answers(OURS, files, STREAMERD_MODE="direct") == RECORDED


def test_through_a_daemon(files: Path, streamerd: DaemonProcess) -> None:
    environment = {"STREAMERD_MODE": "required", "STREAMERD_SOCKET": streamerd.socket}
    assert answers(OURS, files, **environment) == RECORDED
    assert streamerd.totals()["source_read_bytes"] > 0


def test_the_record_is_right(files: Path) -> None:
    if missing := package_missing():
        pytest.skip(missing)
    assert answers(PACKAGE, files) == RECORDED
