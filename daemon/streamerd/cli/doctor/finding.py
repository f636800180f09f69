"""The result of a check: a verdict, the facts behind it, and a remedy. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """A check's verdict."""

    OK = "ok"
    NOTE = "note"
    """The check does not apply here, or could not be made."""
    WARNING = "warn"
    """The thing works, but not as well as it could."""
    FAILED = "fail"
    """The thing must be mended."""


class Finding(NamedTuple):
    """One line of the doctor's output."""

    check: str
    state: State
    text: str
    remedy: str = ""


def any_failed(findings: list[Finding]) -> bool:
    """Whether something must be mended."""
    return any(finding.state is State.FAILED for finding in findings)
