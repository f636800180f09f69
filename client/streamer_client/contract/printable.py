"""Text from outside as it may stand in a log line, an error or on a terminal.

Owns the one rule for names, labels and error texts that somebody else chose: one line, no control
characters, nothing that turns the direction of writing, and no more than so many characters. Pure.
"""

from __future__ import annotations

from typing import Final

from streamer_client.contract.limits import MAX_SHOWN_CHARACTERS

_CUT: Final = "…"


def printable(text: str, most: int = MAX_SHOWN_CHARACTERS) -> str:
    r"""A text with everything escaped that is not printable, cut to `most` characters.

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
    """The pieces that leave room for the mark of a cut; no escape is cut in two."""
    length = sum(map(len, pieces))
    while pieces and length > most - len(_CUT):
        length -= len(pieces.pop())
    return "".join(pieces) + _CUT


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
