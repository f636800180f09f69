"""Prints findings: as an aligned, coloured table on a terminal, as plain lines into a pipe."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamerd.cli.doctor.finding import Finding, State
from streamerd.cli.terminal import one_line

_STYLES: Final = {
    State.OK: "green",
    State.NOTE: "bright_black",
    State.WARNING: "yellow",
    State.FAILED: "bold red",
}
_STATE_WIDTH: Final = max(map(len, State)) + 2


def show(findings: list[Finding], out: Console) -> None:
    """Print the findings."""
    if out.is_terminal:
        out.print(_table(findings))
        return
    for line in lines(findings):
        out.print(line, soft_wrap=True)


def lines(findings: list[Finding]) -> list[str]:
    """One line each, for pipes and logs. Pure."""
    width = max(len(finding.check) for finding in findings) + 2
    return [
        f"{finding.state:<{_STATE_WIDTH}}{finding.check:<{width}}{one_line(finding.text)}"
        + (f"  -> {one_line(finding.remedy)}" if finding.remedy else "")
        for finding in findings
    ]


def _table(findings: list[Finding]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        told = Text(one_line(finding.text))
        if finding.remedy:
            told.append(f"\n→ {one_line(finding.remedy)}", "cyan")
        table.add_row(Text(finding.state, _STYLES[finding.state]), finding.check, told)
    return table


def as_json(findings: list[Finding]) -> list[dict[str, str]]:
    """The findings as `--json` prints them; docs/operations.md documents this form. Pure."""
    return [
        {"check": f.check, "state": str(f.state), "text": f.text, "remedy": f.remedy}
        for f in findings
    ]
