"""A text is shown as one short line, and an environment as its names alone."""

from __future__ import annotations

import io
import sys
from typing import get_args

import msgspec
import pytest
from rich.console import Console
from rich.pretty import pprint

from streamer_client.contract import messages as m
from streamer_client.contract.limits import MAX_SHOWN_CHARACTERS
from streamer_client.contract.printable import printable, without_secrets
from streamer_client.storage.contract import StoredShard
from streamerd.workers import jobs


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


# --- secrets ------------------------------------------------------------------------------------


ENVIRONMENT = {"AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_REGION": "eu-west-1"}
CARRIERS = [
    m.Open(1, 2, "s3://b", environment=ENVIRONMENT),
    m.Prefetch(1, "s3://b", environment=ENVIRONMENT),
    m.Renew(1, ENVIRONMENT),
    m.Verify(1, "s3://b", 0, True, ENVIRONMENT),
    jobs.Resolve(1, "s3://b", None, None, ENVIRONMENT),
    jobs.LookAt(1, ("s3://b/k",), ENVIRONMENT),
    jobs.TakeEnvironment("digest", ENVIRONMENT),
    jobs.Fetch(1, 2, StoredShard("s3://b/k", 1, "e"), None, ENVIRONMENT, 0, 1),
    jobs.Reread(1, StoredShard("s3://b/k", 1, "e"), None, ENVIRONMENT, 0, 1),
]


@pytest.mark.parametrize("carrier", CARRIERS, ids=lambda carrier: type(carrier).__name__)
def test_values_are_hidden_wherever_it_is_shown(carrier: m.Message | jobs.Request) -> None:
    out = io.StringIO()
    pprint(carrier, console=Console(file=out))
    for shown in (repr(carrier), str(carrier), f"{carrier}", out.getvalue()):
        assert "AWS_REGION" in shown
        assert "a-secret" not in shown
        assert "eu-west-1" not in shown


def test_no_message_with_an_environment_is_missing_here() -> None:
    every = (*get_args(m.ClientMessage), *get_args(m.DaemonMessage), *get_args(jobs.Request))
    carrying = {
        each
        for each in every
        for field in msgspec.structs.fields(each)
        # A field of type str holds a digest of an environment.
        if field.name == "environment" and field.type is not str
    }
    assert carrying == {type(carrier) for carrier in CARRIERS}


def test_everything_else_is_shown_as_before() -> None:
    assert repr(m.Pin(1, "/m")) == "Pin(request_id=1, source='/m', transfer=0)"


def test_secrets_vanish_from_a_text_and_places_stay() -> None:
    text = "https://s3.eu-west-1.example/b: key a-secret, token tok-tok-tok, via http://u:p@proxy"
    environment = ENVIRONMENT | {"TOKEN": "tok-tok-tok", "http_proxy": "http://u:p@proxy"}
    assert without_secrets(text, environment) == (
        "https://s3.eu-west-1.example/b: key ***, token ***, via ***"
    )


def test_what_is_short_or_no_secret_changes_no_text() -> None:
    assert without_secrets("a region, eu", {"TOKEN": "a", "AWS_REGION": "region"}) == "a region, eu"
    assert without_secrets("text", {}) == "text"


def test_a_secret_inside_another_is_hidden_with_it() -> None:
    environment = {"A_TOKEN": "secret", "B_TOKEN": "secret-and-more"}
    assert without_secrets("x secret-and-more y secret", environment) == "x *** y ***"
