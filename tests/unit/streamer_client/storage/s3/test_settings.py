"""The settings of S3 that variables give."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.s3.settings import DEFAULT_REGION, s3_settings

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_SESSION_TOKEN": "hush2"}


def test_nothing_set() -> None:
    found = s3_settings({})
    assert (found.keys, found.region, found.endpoint) == (None, DEFAULT_REGION, "")
    assert (found.virtual, found.unsigned, found.requester_pays) == (None, False, False)


def test_keys_are_never_shown() -> None:
    found = s3_settings(KEYS)
    assert found.keys is not None
    assert (found.keys.access_key_id, found.keys.session_token) == ("id", "hush2")
    assert "hush" not in repr(found)
    assert "hush" not in str(found)


def test_half_a_pair_of_keys() -> None:
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is"):
        s3_settings({"AWS_ACCESS_KEY_ID": "id"})
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is"):
        s3_settings({"AWS_SECRET_ACCESS_KEY": "hush"})


def test_unsigned_wins_over_keys() -> None:
    found = s3_settings({**KEYS, "RUNAI_STREAMER_S3_UNSIGNED": "1"})
    assert found.keys is None
    assert found.unsigned


def test_endpoints_in_their_order() -> None:
    names = ["RUNAI_STREAMER_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
    environment = {name: f"http://host{place}" for place, name in enumerate(names)}
    for place, name in enumerate(names):
        assert s3_settings(environment).endpoint == f"http://host{place}"
        del environment[name]


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("https://storage.googleapis.com/", "https://storage.googleapis.com"),
        ("minio:9000", "https://minio:9000"),
        ("HTTP://Host:80", "http://host"),
        ("https://gateway/s3/", "https://gateway/s3"),
    ],
)
def test_endpoints_are_normalised(text: str, endpoint: str) -> None:
    assert s3_settings({"AWS_ENDPOINT_URL": text}).endpoint == endpoint


@pytest.mark.parametrize("text", ["ftp://h", "https://u:hush@h", "https://h?x=hush", "https://h:x"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL") as caught:
        s3_settings({"AWS_ENDPOINT_URL": text})
    assert "u:hush" not in str(caught.value)


def test_options() -> None:
    found = s3_settings(
        {
            "AWS_DEFAULT_REGION": "eu-west-1",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            "AWS_REQUEST_PAYER": "Requester",
            "AWS_USE_FIPS_ENDPOINT": "true",
            "AWS_USE_DUALSTACK_ENDPOINT": "true",
            "AWS_MAX_ATTEMPTS": "2",
            "STREAMER_TLS_AUTHORITIES": "certificates",
        }
    )
    assert (found.region, found.virtual, found.requester_pays) == ("eu-west-1", False, True)
    assert (found.fips, found.dualstack) == (True, True)
    assert (found.policy.max_attempts, found.http.authorities) == (2, "certificates")
    assert s3_settings({"AWS_DEFAULT_REGION": "a", "AWS_REGION": "b"}).region == "b"
