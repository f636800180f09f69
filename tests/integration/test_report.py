"""`streamerctl report` after a real load of two ranks: table, trace, and page in Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from streamer_client.client import daemon_client
from streamerd.cli.main import main
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess
from tests.support.waiting import eventually

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom")


@pytest.fixture
def loaded(streamerd: DaemonProcess, tmp_path: Path) -> DaemonProcess:
    """A daemon after two ranks have each loaded a shard of their own and one that both want."""
    files = [str(path) for path in write_model(tmp_path / "m", shards=3, blocks=4)]

    def rank(number: int) -> None:
        with (
            daemon_client(streamerd.socket, label=f"rank {number}") as client,
            client.open([files[number], files[2]]) as checkpoint,
        ):
            for _name, tensor in checkpoint.tensors():
                assert tensor is not None

    ranks = [threading.Thread(target=rank, args=(number,)) for number in (0, 1)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join()
    eventually(lambda: len(re.findall("event=load_(?:ended|gone)", streamerd.log)) == 2)
    return streamerd


def _report(daemon: DaemonProcess, *flags: str) -> int:
    return main(["report", *flags, "--socket", daemon.socket])


def test_the_document_tells_both_loads_and_every_read(
    loaded: DaemonProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _report(loaded, "--json") == 0
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    loads = body["loads"]
    assert sorted(load["label"] for load in loads) == ["rank 0", "rank 1"]
    assert sum(load["read_bytes"] for load in loads) == 12 * BLOCK
    assert sum(load["served_bytes"] for load in loads) == 16 * BLOCK
    assert len(body["reads"]) == 12
    assert {read[5] for read in body["reads"]} <= {1, 2}
    assert {read[2] for read in body["reads"]} <= set(loaded.status()["workers"])
    for load in loads:
        last = load["samples"][-1]
        assert sum(last[4:]) <= load["seconds"] + 0.01


def test_a_load_that_is_not_remembered_is_named(
    loaded: DaemonProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _report(loaded, "2") == 0
    assert "load 2  " in capsys.readouterr().out
    assert _report(loaded, "9") == 1
    assert "load 9 is not remembered" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named(
    loaded: DaemonProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _report(loaded, "--html", "/proc/no/page.html") == 1
    assert "cannot write /proc/no/page.html" in capsys.readouterr().err


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_the_page_draws_itself_in_chromium_without_a_complaint(
    loaded: DaemonProcess, tmp_path: Path
) -> None:
    page, trace = tmp_path / "page.html", tmp_path / "trace.json"
    assert _report(loaded, "--html", str(page), "--trace", str(trace)) == 0
    assert len(json.loads(trace.read_text())["traceEvents"]) > 20
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, *CHROMIUM, f"--user-data-dir={tmp_path}/profile", page.as_uri()],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    drawn = done.stdout
    assert 'data-drawn="2"' in drawn
    assert drawn.count('class="mark"') >= 14, "12 reads and what each load did"
    assert drawn.count("<polyline") == 2
    for label in ("rank 0 (load ", "rank 1 (load "):
        assert label in drawn
