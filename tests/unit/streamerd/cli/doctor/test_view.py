"""Findings as lines, as a table and as JSON."""

from __future__ import annotations

import io

from rich.console import Console

from streamerd.cli.doctor.finding import Finding, State, any_failed
from streamerd.cli.doctor.view import as_json, lines, show

FINDINGS = [
    Finding("room", State.OK, "1 GiB free"),
    Finding("huge pages", State.WARNING, "none " * 30, "`mount it`"),
]


def test_in_a_pipe_each_is_one_aligned_line() -> None:
    out = io.StringIO()
    show(FINDINGS, Console(file=out, width=40))
    told = out.getvalue().splitlines()
    assert told == lines(FINDINGS)
    assert told[0] == "ok    room        1 GiB free"
    assert told[1].startswith("warn  huge pages  none ")
    assert told[1].endswith("  -> `mount it`")


def test_on_a_terminal_the_remedy_has_its_own_line_and_nothing_is_cut() -> None:
    out = io.StringIO()
    console = Console(file=out, width=60, force_terminal=True, color_system="standard")
    show(FINDINGS, console)
    plain = out.getvalue()
    assert plain.count("none") == 30
    assert "→ `mount it`" in plain
    assert "\x1b[33mwarn" in plain


def test_json_has_every_field() -> None:
    assert as_json(FINDINGS)[0] == {
        "check": "room", "state": "ok", "text": "1 GiB free", "remedy": "",
    }  # fmt: skip


def test_only_failures_must_be_mended() -> None:
    assert not any_failed(FINDINGS)
    assert any_failed([*FINDINGS, Finding("x", State.FAILED, "")])
