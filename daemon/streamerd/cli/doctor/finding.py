"""What a check says: a verdict, the facts behind it, and what to do. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """Does not apply here, or cannot be told."""
    WARNING = "warn"
    """Works, and not as well as it could."""
    FAILED = "fail"
    """Must be mended."""


class Finding(NamedTuple):
    """One line of the doctor."""

    check: str
    state: State
    text: str
    remedy: str = ""


def any_failed(findings: list[Finding]) -> bool:
    """Whether something must be mended."""
    return any(finding.state is State.FAILED for finding in findings)
