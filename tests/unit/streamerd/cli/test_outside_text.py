"""Names, labels and errors from outside are shown in one line, and not as markup."""

from __future__ import annotations

import io
from typing import Any, Final

import pytest
from rich.console import Console
from tests.support.sample_status import busy_body, lease, shard

from streamer_client.contract.messages import Finding, Verified
from streamer_client.contract.status import parse_status
from streamerd.cli import cache, main, terminal
from streamerd.cli.config import config_view
from streamerd.cli.doctor.finding import Finding as DoctorFinding
from streamerd.cli.doctor.finding import State
from streamerd.cli.doctor.view import show
from streamerd.cli.status_view import status_view
from streamerd.cli.verify import summary, told_finding

EVIL: Final = "[red]x[/red]\nFORGED\r\x1b[2J\x9b1m\u202e"
SHOWN: Final = "[red]x[/red]\\nFORGED\\r\\x1b[2J\\x9b1m\\u202e"


def shown(renderable: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=500, highlight=False, markup=False, emoji=False).print(renderable)
    return out.getvalue()


def check(text: str) -> None:
    assert SHOWN in text
    assert not any(line.startswith("FORGED") for line in text.splitlines())
    assert all(line.isprintable() for line in text.split("\n"))


def evil(value: Any) -> Any:
    """The same with every text hostile."""
    match value:
        case str():
            return EVIL
        case dict():
            return {key: evil(each) for key, each in value.items()}
        case list():
            return [evil(each) for each in value]
        case _:
            return value


def test_status() -> None:
    check(shown(status_view(parse_status(evil(busy_body())))))


def test_a_shard_of_its_source() -> None:
    body = busy_body()
    body["sources"] = [
        {
            "uri": "/m",
            "shards": [shard(f"/m/{EVIL}", 1, 0, "failed", error=EVIL, leases=[lease(1, EVIL)])],
        }
    ]
    assert shown(status_view(parse_status(body))).count(SHOWN) == 4


def test_config() -> None:
    check(shown(config_view({EVIL: {"value": EVIL, "origin": EVIL}})))


def test_verify() -> None:
    check(summary(EVIL, Verified(1, 1, 1, ()), against_source=False))
    check(told_finding(Finding(EVIL, 1, 2, 3, EVIL)))


def test_doctor() -> None:
    findings = [DoctorFinding("check", State.FAILED, EVIL, EVIL)]
    for terminal_wanted in (False, True):
        out = io.StringIO()
        console = Console(
            file=out, width=500, force_terminal=terminal_wanted, color_system=None, markup=False
        )
        show(findings, console)
        check(out.getvalue())


def test_answers_and_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache._tell(EVIL)
    check(capsys.readouterr().out)
    path = f"/nowhere/{EVIL}"
    assert main.main(["--socket", path, "status"]) != 0
    check(capsys.readouterr().err)


def test_one_line_is_printable() -> None:
    assert terminal.one_line(EVIL) == SHOWN
