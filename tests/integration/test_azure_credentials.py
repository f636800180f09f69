"""The variables that a caller of az:// sends along, and Azurite's answers to them."""

from __future__ import annotations

import datetime as dt
import json
import logging
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from streamer_client.contract.errors import (
    ConfigError,
    CredentialsExpired,
    SourceForbidden,
    SourceNotFound,
)
from streamer_client.storage.az.environment import AzEnvironment
from streamer_client.storage.az.storage import AzStorage
from tests.support.azurite import ACCOUNT, Azurite, azurite, azurite_missing
from tests.support.certificates import Authority
from tests.support.token_server import TokenServer, token_server

SOURCE = "az://models/tiny"


def _now() -> dt.datetime:
    """The time now.

    Each test asks for it, because a session's first test may have run half an hour before.
    """
    return dt.datetime.now(dt.UTC)


HOUR = dt.timedelta(hours=1)


@pytest.fixture
def server() -> Iterator[TokenServer]:
    with token_server() as running:
        yield running


@pytest.fixture
def identity(server: TokenServer, monkeypatch: pytest.MonkeyPatch) -> TokenServer:
    """A managed identity, as Azure's App Service provides it."""
    for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.url}/token")
    monkeypatch.setenv("IDENTITY_HEADER", "h")
    monkeypatch.setenv("NO_PROXY", "*")
    return server


@pytest.fixture(scope="module")
def plain() -> Iterator[Azurite]:
    missing = azurite_missing()
    if missing:
        pytest.skip(missing)
    with azurite() as running, running.service() as service:
        container = service.create_container("models")
        container.upload_blob("tiny/a.safetensors", b"abc")
        service.create_container("open", public_access="container").upload_blob("a.bin", b"xy")
        yield running


def account(server: Azurite, **environ: str) -> dict[str, str]:
    return {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ENDPOINT": server.endpoint(),
        **environ,
    }


# --- keys


def test_a_signature_travels_and_the_key_does_not(
    plain: Azurite, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    environ = account(plain, AZURE_STORAGE_ACCOUNT_KEY=plain.key)
    text = (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={plain.key};"
        f"BlobEndpoint={plain.endpoint()};"
    )
    for given in (environ, {"AZURE_STORAGE_CONNECTION_STRING": text}):
        found = AzEnvironment(SOURCE, given).resolved()
        assert set(found) == {"AZURE_STORAGE_ENDPOINT", "AZURE_STORAGE_SAS_TOKEN"}
        assert plain.key not in str(found)
        fields = parse_qs(found["AZURE_STORAGE_SAS_TOKEN"])
        assert (fields["sp"], fields["sr"]) == (["rl"], ["c"])
        (shard,) = AzStorage(found).list_shards(SOURCE, None, None)
        assert shard.size_bytes == 3
    signature = fields["sig"][0]
    assert plain.key not in caplog.text
    assert signature not in caplog.text


def test_a_signature_is_kept_until_it_is_about_to_expire(plain: Azurite) -> None:
    now = [_now()]
    caller = AzEnvironment(
        SOURCE, account(plain, AZURE_STORAGE_ACCOUNT_KEY=plain.key), clock=lambda: now[0]
    )
    first = caller.resolved()
    now[0] += dt.timedelta(minutes=45)
    assert caller.resolved() == first
    now[0] += dt.timedelta(minutes=10)
    assert caller.resolved() != first


def test_a_signature_that_has_expired(plain: Azurite) -> None:
    environ = account(plain, AZURE_STORAGE_ACCOUNT_KEY=plain.key)
    old = AzEnvironment(SOURCE, environ, clock=lambda: _now() - 2 * HOUR).resolved()
    with pytest.raises(CredentialsExpired, match=r"HTTP 403.*x-ms-request-id.*renew") as caught:
        AzStorage(old).list_shards(SOURCE, None, None)
    assert "sig=" not in str(caught.value)


def test_a_key_that_is_not_the_accounts(plain: Azurite) -> None:
    environ = account(plain, AZURE_STORAGE_ACCOUNT_KEY="d3Jvbmc=")
    found = AzEnvironment(SOURCE, environ).resolved()
    with pytest.raises(SourceForbidden, match="HTTP 403"):
        AzStorage(found).list_shards(SOURCE, None, None)


def test_a_key_that_is_none_is_not_shown(plain: Azurite) -> None:
    environ = account(plain, AZURE_STORAGE_ACCOUNT_KEY="hush!a")
    with pytest.raises(ConfigError, match="cannot sign") as caught:
        AzEnvironment(SOURCE, environ).resolved()
    assert "hush" not in repr(caught.value)
    assert caught.value.__cause__ is None


# --- public containers


def test_public_containers(plain: Azurite) -> None:
    found = AzEnvironment("az://open", account(plain, STREAMER_AZURE_ANONYMOUS="1")).resolved()
    storage = AzStorage(found)
    (shard,) = storage.list_shards("az://open", "*", None)
    target = bytearray(2)
    storage.open(shard).readinto(memoryview(target), 0)
    assert target == b"xy"
    with pytest.raises((SourceForbidden, SourceNotFound)):
        storage.list_shards(SOURCE, None, None)


# --- identities


def test_a_token_travels_and_is_kept_while_it_holds(identity: TokenServer) -> None:
    environ = {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_ENDPOINT_SUFFIX": "core.example.net"}
    now = [_now()]
    caller = AzEnvironment(SOURCE, environ, clock=lambda: now[0])
    expected = {
        "AZURE_STORAGE_ENDPOINT": "https://acc.blob.core.example.net",
        "STREAMER_AZURE_BEARER": "token-1",
    }
    assert caller.resolved() == expected
    assert caller.resolved() == expected
    now[0] += dt.timedelta(minutes=55)
    assert caller.resolved()["STREAMER_AZURE_BEARER"] == "token-2"
    assert identity.given == 2


def test_no_identity_is_told_with_where_was_looked(identity: TokenServer) -> None:
    identity.refusal = "no identity here"
    with pytest.raises(SourceForbidden) as caught:
        AzEnvironment(SOURCE, {"AZURE_STORAGE_ACCOUNT_NAME": "acc"}).resolved()
    text = str(caught.value)
    assert text.startswith("az://models/tiny: no access token could be obtained: ")
    assert "ManagedIdentityCredential" in text
    assert "STREAMER_AZURE_ANONYMOUS=1" in text
    assert "\n" not in text


def test_nobody_is_asked_for_a_token_that_would_travel_in_plain_text(
    identity: TokenServer,
) -> None:
    environ = {"AZURE_STORAGE_ENDPOINT": "http://elsewhere.example.net"}
    with pytest.raises(ConfigError, match="plain text"):
        AzEnvironment(SOURCE, environ).resolved()
    with pytest.raises(ConfigError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        AzEnvironment(SOURCE, {}).resolved()


def azure_token(expiry: dt.datetime) -> str:
    """A token as Entra ID makes it; Azurite checks all of it except the signature."""
    claims = {
        "aud": "https://storage.azure.com",
        "iss": "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/",
        "iat": int((_now() - 3 * HOUR).timestamp()),
        "nbf": int((_now() - 3 * HOUR).timestamp()),
        "exp": int(expiry.timestamp()),
    }
    parts = ({"typ": "JWT", "alg": "RS256"}, claims)
    texts = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*texts, "c2ln"])


def test_tokens_over_tls(tmp_path: Path) -> None:
    missing = azurite_missing()
    if missing:
        pytest.skip(missing)
    authority = Authority(tmp_path)
    authority.server_context()
    with azurite(tmp_path / "server.pem") as running:
        with running.service(connection_verify=str(authority.bundle)) as service:
            service.create_container("models").upload_blob("tiny/a.safetensors", b"abc")
        given = account(
            running,
            AWS_CA_BUNDLE=str(authority.bundle),
            STREAMER_AZURE_BEARER=azure_token(_now() + HOUR),
        )
        variables = AzEnvironment(SOURCE, given).resolved()
        storage = AzStorage(variables)
        (shard,) = storage.list_shards(SOURCE, None, None)
        target = bytearray(3)
        storage.open(shard).readinto(memoryview(target), 0)
        assert target == b"abc"
        old = {**variables, "STREAMER_AZURE_BEARER": azure_token(_now() - HOUR)}
        with pytest.raises(CredentialsExpired, match="HTTP 40") as caught:
            AzStorage(old).list_shards(SOURCE, None, None)
        assert old["STREAMER_AZURE_BEARER"] not in str(caught.value)
