"""How much of a text from outside may appear in a log line, an error or on a terminal.

Owns two rules. Names, labels and error texts that somebody else chose are shown in one line. They
are cut to a length, without control characters or marks that change the direction of writing.
Secrets, which travel in an `environment`, are shown nowhere: a printed, logged or formatted message
tells only the names of its variables. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from streamer_client.contract.limits import MAX_SHOWN_CHARACTERS

_CUT: Final = "…"

HIDDEN: Final = "***"
_SECRET: Final = re.compile(
    r"SECRET|TOKEN|PASSWORD|CREDENTIAL|ACCOUNT_KEY|SAS|CONNECTION_STRING|USERINFO|QUERY|BEARER"
)
"""Variables whose values are secrets; an access key's id, a region or an endpoint is not."""
_USER_INFO: Final = re.compile(r"://.*@")
"""A URL with a password in it, such as a proxy's; the password may have a slash."""
_LEAST_LETTERS: Final = 6
"""The shortest value that is hidden; hiding shorter ones would spoil many harmless texts."""


def printable(text: str, most: int = MAX_SHOWN_CHARACTERS) -> str:
    r"""A text with everything unprintable escaped, cut to `most` characters.

    Line ends, control characters, escape sequences, marks that change the direction of writing and
    bytes that are no UTF-8 become what Python writes for them, such as `\n`, `\x1b` or `\u202e`.
    """
    if len(text) <= most and text.isprintable():
        return text
    shown: list[str] = []
    left = most
    for character in text[: most + 1]:
        piece = character if character.isprintable() else _escaped(character)
        left -= len(piece)
        shown.append(piece)
        if left < 0:
            return _cut(shown, most)
    return "".join(shown)


def _cut(pieces: list[str], most: int) -> str:
    """The pieces that fit before the mark of a cut; no escape is cut in two."""
    length = sum(map(len, pieces))
    while pieces and length > most - len(_CUT):
        length -= len(pieces.pop())
    return "".join(pieces) + _CUT


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


# --- secrets ------------------------------------------------------------------------------------


class Redacted(msgspec.Struct, frozen=True):
    """The base of structs whose `environment`, if they have one, is shown without its values."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        if "environment" in shown:
            shown["environment"] = dict.fromkeys(shown["environment"], HIDDEN)
        return list(shown.items())

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """A text from elsewhere, such as a library's error, with the environment's secrets hidden."""
    secrets = [
        re.escape(value)
        for name, value in environment.items()
        if len(value) >= _LEAST_LETTERS and (_SECRET.search(name) or _USER_INFO.search(value))
    ]
    return (
        re.sub("|".join(sorted(secrets, key=len, reverse=True)), HIDDEN, text) if secrets else text
    )
