"""Every field of every message has a rule, and each rule refuses what is beyond it."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.support.every_message import CLIENT, DAEMON

from streamer_client.contract import limits
from streamer_client.contract import messages as m
from streamer_client.contract.checks import RULES, check, check_shards
from streamer_client.contract.errors import ConfigError, ProtocolMismatch, StreamerError
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.options import LoadOptions

SAMPLES: dict[str, m.Message] = {type(each).__name__: each for each in (*CLIENT, *DAEMON)}
TIB = 1 << 40


def fields_of(struct: type[msgspec.Struct]) -> set[str]:
    """A message's own fields, and those of the structs within it."""
    found: set[str] = set()
    for field in msgspec.structs.fields(struct):
        found.add(field.name)
        for inner in typing.get_args(field.type):
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                found |= fields_of(inner)
    return found


def test_no_field_is_without_a_rule_and_no_rule_without_a_field() -> None:
    every = (*typing.get_args(m.ClientMessage), *typing.get_args(m.DaemonMessage))
    assert set().union(*map(fields_of, every)) == set(RULES)


@pytest.mark.parametrize("message", SAMPLES.values(), ids=SAMPLES)
def test_what_is_said_every_day_passes(message: m.Message) -> None:
    check(message)


def changed(kind: str, **fields: Any) -> m.Message:
    return msgspec.structs.replace(SAMPLES[kind], **fields)


def nested(levels: int) -> dict[str, object]:
    body: dict[str, object] = {}
    for _ in range(levels - 1):
        body = {"a": body}
    return body


SHARD = m.OpenedShard("/m/a", "file:1", 1, True)
SETTINGS = {
    "source too long": changed("Open", source="x" * (limits.MAX_SOURCE_CHARACTERS + 1)),
    "null in a source": changed("Pin", source="/m/\0"),
    "null in a pattern": changed("Prefetch", pattern="*\0"),
    "null in a file": changed("Open", files=("/m/a", "/m/\0")),
    "too many files": changed("Open", files=("a",) * (limits.MAX_SHARDS + 1)),
    "too many sources": changed("Evict", sources=("a",) * (limits.MAX_SHARDS + 1)),
    "memory limit below": changed("Open", options=LoadOptions(memory_limit=-2)),
    "memory limit above": changed("Open", options=LoadOptions(memory_limit=2**63)),
    "no concurrency": changed("Open", options=LoadOptions(concurrency=0)),
    "large environment": changed("Renew", environment={"A": "x" * limits.MAX_ENVIRONMENT_BYTES}),
    "null in a variable": changed("Verify", environment={"A": "x\0"}),
}
IMPOSSIBLE = {
    "load below": changed("Close", load=-1),
    "load above": changed("Close", load=2**63),
    "request": changed("GetStatus", request_id=-2),
    "pid": changed("Hello", pid=2**31),
    "transfer": changed("Drop", transfer=-1),
    "world": changed("Hello", world=-1),
    "a long proof": changed("Welcome", proof=bytes(17)),
    "no proof": changed("Welcome", proof=b""),
    "version": changed("Hello", version="9" * (limits.MAX_NAME_CHARACTERS + 1)),
    "prefetch of less than nothing": changed("Prefetch", limit_bytes=-2),
    "many ranges": changed("Want", ranges=(BlockRange(0, 0, 1),) * (limits.MAX_RANGES + 1)),
    "range backwards": changed("Want", ranges=(BlockRange(0, 2, 1),)),
    "range before": changed("Consumed", ranges=(BlockRange(0, -1, 1),)),
    "range beyond": changed("Consumed", ranges=(BlockRange(0, 0, 2**64 - 1),)),
    "range of no shard": changed("Granted", ranges=(BlockRange(-1, 0, 1),)),
    "many shards": changed("ReleaseShards", shards=(0,) * (limits.MAX_SHARDS + 1)),
    "no shard": changed("ReleaseShards", shards=(-1,)),
    "many shards opened": changed("Opened", shards=(SHARD,) * (limits.MAX_SHARDS + 1)),
    "a shard too large": changed(
        "Opened", shards=(msgspec.structs.replace(SHARD, size_bytes=2**62),)
    ),
    "no blocks": changed("Opened", block_bytes=0),
    "heartbeat never": changed("Welcome", heartbeat_s=float("nan")),
    "heartbeat at once": changed("Welcome", heartbeat_s=0.0),
    "heartbeat for ever": changed("Welcome", heartbeat_s=float("inf")),
    "text": changed("Done", detail="x" * (limits.MAX_TEXT_CHARACTERS + 1)),
    "finding": changed("Verified", findings=(m.Finding("/m", -1, 0, 1, "x"),)),
    "deep body": changed("Status", body=nested(limits.MAX_BODY_DEPTH + 1)),
    "bytes in a body": changed("Status", body={"a": [b"\xff"]}),
    "a kind of its own": changed("Config", body={"a": msgspec.msgpack.Ext(5, b"x")}),
    "a key that is no text": changed("Config", body={"a": {1: 2}}),
    "no number": changed("Status", body={"a": float("nan")}),
}


@pytest.mark.parametrize("message", SETTINGS.values(), ids=SETTINGS)
def test_what_no_setting_may_say(message: m.Message) -> None:
    with pytest.raises(ConfigError) as caught:
        check(message)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2 * limits.MAX_SHOWN_CHARACTERS


@pytest.mark.parametrize("message", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_nobody_of_this_version_says(message: m.Message) -> None:
    with pytest.raises(ProtocolMismatch, match="install the same version") as caught:
        check(message)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2 * limits.MAX_SHOWN_CHARACTERS


def test_no_error_shows_an_environment() -> None:
    secret = "hunter2" + "\0" * limits.MAX_ENVIRONMENT_BYTES
    for environment in ({"TOKEN": secret}, {secret: "TOKEN"}, {"TOKEN": "hunter2\0"}):
        with pytest.raises(StreamerError) as caught:
            check(m.Renew(1, environment))
        assert "hunter2" not in str(caught.value)


def test_a_body_at_the_limit_passes() -> None:
    check(changed("Status", body=nested(limits.MAX_BODY_DEPTH)))


def repeated(name: str, size_bytes: int, count: int) -> typing.Iterator[tuple[str, int]]:
    return ((name, size_bytes) for _ in range(count))


@pytest.mark.parametrize(
    ("shards", "block_bytes", "told"),
    [
        (lambda: [("/m/sparse", 4 << 60)], 8 << 20, "4.00 TiB is the most"),
        (lambda: [("/m/sparse", 256 * TIB)], 8 << 20, "sparse"),
        (lambda: [("/m/a\n", TIB)], 64 << 10, r"/m/a\\n has"),
        (lambda: [("/m/a", -1)], 8 << 20, "has -1 bytes"),
        (lambda: repeated("/m/a", 0, 10**12), 8 << 20, "more than 10000 shards"),
        (lambda: repeated("/m/a", 4 * TIB, 5), 8 << 20, "more than 16.0 TiB"),
    ],
)
def test_claimed_sizes(
    shards: Callable[[], typing.Iterable[tuple[str, int]]], block_bytes: int, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        check_shards(shards(), block_bytes)


def test_the_largest_checkpoints_pass() -> None:
    check_shards([("/m/kimi-k2-bf16", 2 * 10**12)], 8 << 20)
    check_shards(repeated("/m/part", 5 << 30, 400), 8 << 20)
    check_shards(repeated("/m/part", 200 << 20, limits.MAX_SHARDS), 8 << 20)
