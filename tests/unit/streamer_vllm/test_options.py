"""Options: names, types, precedence, and errors that say what to write instead."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.options import Mode
from streamer_vllm.options import Options, Slices, parse_options


def parsed(
    extra: object = None, environ: dict[str, str] | None = None, *, sharded: bool = False
) -> Options:
    return parse_options(extra, environ or {}, sharded=sharded)


@pytest.mark.parametrize("extra", [None, {}])
def test_nothing_said(extra: object) -> None:
    assert parsed(extra) == Options()


def test_everything_said() -> None:
    extra = {
        "concurrency": 16,
        "memory_limit": 5368709120,
        "pattern": "a-{rank}-{part}.safetensors",
        "distributed": True,
        "socket": "/run/own.sock",
        "mode": "required",
    }
    assert parsed(extra, sharded=True) == Options(
        concurrency=16,
        memory_limit_bytes=5368709120,
        pattern="a-{rank}-{part}.safetensors",
        distributed=True,
        socket="/run/own.sock",
        mode=Mode.REQUIRED,
    )


def test_the_environment_speaks_where_the_config_does_not() -> None:
    environ = {
        "RUNAI_STREAMER_CONCURRENCY": "8",
        "RUNAI_STREAMER_MEMORY_LIMIT": "0",
        "STREAMERD_MODE": "direct",
        "STREAMERD_SOCKET": "/run/env.sock",
    }
    assert parsed(environ=environ) == Options(
        concurrency=8, memory_limit_bytes=0, mode=Mode.DIRECT, socket="/run/env.sock"
    )
    extra = {"concurrency": 2, "memory_limit": -1, "mode": "auto", "socket": "/run/x.sock"}
    assert parsed(extra, environ) == Options(
        concurrency=2, memory_limit_bytes=-1, mode=Mode.AUTO, socket="/run/x.sock"
    )


def test_empty_variables_say_nothing() -> None:
    names = ("RUNAI_STREAMER_CONCURRENCY", "RUNAI_STREAMER_MEMORY_LIMIT", "STREAMERD_MODE")
    assert parsed(environ=dict.fromkeys((*names, "STREAMERD_SOCKET"), "")) == Options()


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"concurrency": 0}, "concurrency is 0"),
        ({"concurrency": -3}, "concurrency is -3"),
        ({"concurrency": True}, "concurrency is True"),
        ({"concurrency": "16"}, "concurrency is '16'"),
        ({"concurrency": 1.5}, "concurrency is 1.5"),
        ({"concurrency": None}, "concurrency is None"),
        ({"memory_limit": -2}, "memory_limit is -2"),
        ({"memory_limit": False}, "memory_limit is False"),
        ({"memory_limit": "1GiB"}, "memory_limit is '1GiB'"),
        ({"distributed": 1}, "distributed is 1"),
        ({"socket": ""}, "socket is ''"),
        ({"socket": 5}, "socket is 5"),
        ({"pattern": 7}, "pattern is 7"),
        ({"mode": "maybe"}, "mode is 'maybe'"),
        ({"mode": 1}, "mode is 1"),
    ],
)
def test_a_wrong_value_is_told_with_its_key(extra: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        parsed(extra, sharded=True)
    assert isinstance(caught.value, ConfigError)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("RUNAI_STREAMER_CONCURRENCY", "many"),
        ("RUNAI_STREAMER_CONCURRENCY", "0"),
        ("RUNAI_STREAMER_MEMORY_LIMIT", "-2"),
        ("RUNAI_STREAMER_MEMORY_LIMIT", "5e9"),
        ("STREAMERD_MODE", "on"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        parsed(environ={name: text})


def test_an_unknown_key_is_told_with_the_known_and_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        parsed({"concurency": 4})
    text = str(caught.value)
    assert "'concurency' (did you mean concurrency?)" in text
    assert "concurrency, distributed, memory_limit, mode, slices, socket" in text


def test_a_key_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown key 'zzz';"):
        parsed({"zzz": 1})


def test_a_pattern_belongs_to_sharded_checkpoints() -> None:
    with pytest.raises(ConfigError, match="unknown key 'pattern'"):
        parsed({"pattern": "x-{rank}-{part}"})


@pytest.mark.parametrize("extra", ["{}", 5, ["concurrency"]])
def test_the_config_is_an_object(extra: object) -> None:
    with pytest.raises(ConfigError, match="JSON object"):
        parsed(extra)


def test_object_stores_may_have_a_concurrency_of_their_own() -> None:
    environ = {"RUNAI_STREAMER_CONCURRENCY": "16", "RUNAI_STREAMER_OBJ_CONCURRENCY": "4"}
    options = parse_options({}, environ, sharded=False)
    assert options.load_arguments("s3://bucket/m", hold=True)["concurrency"] == 4
    assert options.load_arguments("/m", hold=True)["concurrency"] == 16
    options = parse_options({"concurrency": 2}, environ, sharded=False)
    for source in ("s3://bucket/m", "/m"):
        assert options.load_arguments(source, hold=True)["concurrency"] == 2


def test_slices_are_for_unsharded_checkpoints() -> None:
    assert parsed({}).slices is Slices.AUTO
    assert parsed({"slices": "off"}).slices is Slices.OFF
    for wrong in (True, "on", ["off"]):
        with pytest.raises(ConfigError, match="it must be one of auto, off"):
            parsed({"slices": wrong})
    with pytest.raises(ConfigError, match="unknown key 'slices'"):
        parsed({"slices": "off"}, sharded=True)


def test_strict_is_a_flag_of_both_formats() -> None:
    assert parsed({"strict": True}).strict
    assert parsed({"strict": True}, sharded=True).strict
    assert not parsed({}).strict
    with pytest.raises(ConfigError, match="strict is 1; it must be true or false"):
        parsed({"strict": 1})
