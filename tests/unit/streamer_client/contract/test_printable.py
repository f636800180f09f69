"""Whatever a text from outside holds, what is shown of it is one short line."""

from __future__ import annotations

import sys

import pytest

from streamer_client.contract.limits import MAX_SHOWN_CHARACTERS
from streamer_client.contract.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rank 0", "rank 0"),
        ("modèle/模型.safetensors", "modèle/模型.safetensors"),
        ("a\nERROR forged", "a\\nERROR forged"),
        ("a\r\x85\u2028b", "a\\r\\x85\\u2028b"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("gnp.\u202etxt", "gnp.\\u202etxt"),
        ("caf\udce9", "caf\\udce9"),
        ("\U000e0001tag", "\\U000e0001tag"),
        ("", ""),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_long_texts_are_cut_and_say_so() -> None:
    assert printable("x" * MAX_SHOWN_CHARACTERS) == "x" * MAX_SHOWN_CHARACTERS
    assert printable("x" * (MAX_SHOWN_CHARACTERS + 1)) == "x" * (MAX_SHOWN_CHARACTERS - 1) + "…"
    assert printable("abcdef", 4) == "abc…"


def test_no_escape_is_cut_in_two() -> None:
    assert printable("ab\ncd", 4) == "ab…"
    assert printable("\n" * 10, 5) == "\\n\\n…"
    assert printable("\U000e0001", 9) == "…"


def test_every_character_alone_is_shown_in_one_printable_line() -> None:
    for code in range(0, sys.maxunicode + 1, 7):
        assert printable(chr(code)).isprintable()
