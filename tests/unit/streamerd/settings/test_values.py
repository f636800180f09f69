"""The values that users may write for the address of the metrics and for the sources to bring in at
start.
"""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamerd.memory.room import MemoryRoom
from streamerd.settings.config import Settings, config_body, load_settings
from streamerd.settings.values import Prefetched, listen_address, prefetch_list

ROOM = MemoryRoom(64 << 30, None, 32 << 30)


def _load(environ: dict[str, str]) -> Settings:
    return load_settings({}, environ, None, ROOM)[0]


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("", ""),
        (9464, "127.0.0.1:9464"),
        (":9464", "127.0.0.1:9464"),
        ("0.0.0.0:9464", "0.0.0.0:9464"),
        ("node-7.example:80", "node-7.example:80"),
        ("[::1]:9464", "[::1]:9464"),
        ("/run/streamerd/metrics.sock", "/run/streamerd/metrics.sock"),
        ("unix:/run/m.sock", "/run/m.sock"),
    ],
)
def test_an_address(given: object, address: str) -> None:
    assert listen_address(given) == address


@pytest.mark.parametrize("given", ["0", "65536", "host", "host:", "a b:1", "run/m.sock", True, [1]])
def test_what_is_no_address(given: object) -> None:
    with pytest.raises(ValueError, match="no address"):
        listen_address(given)


def test_sources_are_texts_or_tables() -> None:
    pinned = {"source": "s3://b/m", "pattern": "*.safetensors", "pin": True}
    expected = (Prefetched("/m"), Prefetched("s3://b/m", "*.safetensors", pin=True))
    assert prefetch_list(["/m", pinned]) == expected
    assert prefetch_list("/m") == (Prefetched("/m"),)
    assert prefetch_list("") == ()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("models/m", "neither an absolute path nor a URI"),
        (["ftp://host/m"], "of no kind that is read: az://, gs://, http://, https://, s3://"),
        ('[{"source": "/m", "pinned": true}]', "pinned"),
        ("[1]", "Expected `str | object`"),
        ("[", "Expecting value"),
        ({"/m": 1}, "Expected `array`"),
    ],
)
def test_what_is_no_list_of_sources(given: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        prefetch_list(given)


def test_a_wrong_value_names_key_and_origin() -> None:
    with pytest.raises(ConfigError, match=r"^prefetch \(environment STREAMERD_PREFETCH\): 'm' is"):
        _load({"STREAMERD_PREFETCH": "m"})
    with pytest.raises(ConfigError, match=r"^metrics_listen .*set it to a port of 127.0.0.1"):
        _load({"STREAMERD_METRICS_LISTEN": "everywhere"})


def test_the_config_answer_has_plain_values() -> None:
    settings, origins = load_settings({"prefetch": ["/m"]}, {}, None, ROOM)
    assert config_body(settings, origins)["prefetch"] == {
        "value": ({"source": "/m", "pattern": None, "pin": False},),
        "origin": "flag --prefetch",
    }
