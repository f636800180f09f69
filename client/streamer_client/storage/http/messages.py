"""What is asked of a server and what it answers, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """One request without a body."""

    method: str
    url: str
    """Absolute and percent-encoded, as it is sent; may hold secrets, so never shown."""
    about: str
    """What a person calls the thing asked for; every error's text begins with it."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with a body short enough to hold."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""
