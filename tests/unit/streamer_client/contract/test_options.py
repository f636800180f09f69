from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.options import (
    CONNECT_DEFAULT,
    MODE_ENV,
    LoadArguments,
    LoadOptions,
    Mode,
    chosen_mode,
)


def test_the_option_counts_before_the_environment_and_both_before_the_default() -> None:
    assert chosen_mode("direct", {MODE_ENV: "required"}) is Mode.DIRECT
    assert chosen_mode(None, {MODE_ENV: "required"}) is Mode.REQUIRED
    assert chosen_mode("", {MODE_ENV: ""}) is Mode.AUTO
    assert chosen_mode(None, {}) is Mode.AUTO
    assert chosen_mode(None, {}, CONNECT_DEFAULT) is Mode.REQUIRED
    assert chosen_mode(None, {MODE_ENV: "off"}, CONNECT_DEFAULT) is Mode.OFF


@pytest.mark.parametrize("mode", Mode)
def test_every_mode_is_written_as_its_value(mode: Mode) -> None:
    assert chosen_mode(mode.value, {}) is mode


def test_an_unknown_mode_names_who_asked_for_it_and_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"^mode is 'on'; .*auto, required, direct, off"):
        chosen_mode("on", {})
    with pytest.raises(ConfigError, match=rf"^{MODE_ENV} is 'on'"):
        chosen_mode(None, {MODE_ENV: "on"})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (LoadOptions(memory_limit=-2), "memory_limit is -2; it is -1, 0 or a number of bytes"),
        (LoadOptions(memory_limit=2**63), "memory_limit is 9223372036854775808; .* below 2\\^63"),
        (LoadOptions(concurrency=0), "concurrency is 0; it is a positive number of reads"),
        (LoadOptions(concurrency=2**63), "concurrency is 9223372036854775808"),
    ],
)
def test_an_option_out_of_its_bounds_is_named(options: LoadOptions, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        options.check()


@pytest.mark.parametrize("options", [LoadOptions(), LoadOptions(False, 0, 1)])
def test_options_within_their_bounds_pass(options: LoadOptions) -> None:
    options.check()


def test_every_option_can_be_given_by_a_caller() -> None:
    assert LoadArguments.__annotations__.keys() == set(LoadOptions.__struct_fields__)
