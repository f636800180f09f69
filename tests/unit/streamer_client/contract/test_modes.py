from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.modes import CONNECT_DEFAULT, MODE_ENV, Mode, chosen_mode


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
