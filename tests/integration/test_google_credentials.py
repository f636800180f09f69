"""The credentials that a caller of gs:// sends along, with real files and token servers, and
without Google.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from streamer_client.contract.errors import ConfigError, SourceForbidden
from streamer_client.storage.gs.environment import GsEnvironment
from tests.support.token_server import TokenServer, token_server

SOURCE = "gs://models/tiny"


@pytest.fixture
def server() -> Iterator[TokenServer]:
    with token_server() as running:
        yield running


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


@pytest.fixture
def key_file(tmp_path: Path, server: TokenServer, private_key: str) -> str:
    """A key file of a service account, made here, whose tokens come from the test's server."""
    file = tmp_path / "account.json"
    fields = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "1",
        "private_key": private_key,
        "client_email": "reader@p.iam.gserviceaccount.com",
        "token_uri": f"{server.url}/token",
    }
    file.write_text(json.dumps(fields))
    return str(file)


@pytest.fixture(autouse=True)
def no_credentials_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_QUOTA_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.mark.parametrize(
    "name", ["RUNAI_STREAMER_GCS_CREDENTIAL_FILE", "GOOGLE_APPLICATION_CREDENTIALS"]
)
def test_a_token_travels_and_the_key_does_not(
    name: str, key_file: str, server: TokenServer
) -> None:
    caller = GsEnvironment(SOURCE, {name: key_file})
    assert caller.resolved() == {"STREAMER_GCS_BEARER": "token-1"}
    assert caller.resolved() == {"STREAMER_GCS_BEARER": "token-1"}, "renewed without need"
    assert server.given == 1


def test_a_token_that_is_about_to_expire_is_renewed(key_file: str, server: TokenServer) -> None:
    server.life_s = 60
    caller = GsEnvironment(SOURCE, {"RUNAI_STREAMER_GCS_CREDENTIAL_FILE": key_file})
    found = [caller.resolved()["STREAMER_GCS_BEARER"] for _ in range(2)]
    assert found == ["token-1", "token-2"]


def test_an_account_that_gets_no_token(key_file: str, server: TokenServer) -> None:
    server.refusal = "invalid_grant"
    caller = GsEnvironment(SOURCE, {"RUNAI_STREAMER_GCS_CREDENTIAL_FILE": key_file})
    with pytest.raises(SourceForbidden, match=r"gs://models/tiny: .*invalid_grant.*renew"):
        caller.resolved()


@pytest.mark.parametrize("text", ["no json", "{}", None])
def test_a_file_that_is_none(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "key.json"
    if text is not None:
        file.write_text(text)
    caller = GsEnvironment(SOURCE, {"GOOGLE_APPLICATION_CREDENTIALS": str(file)})
    with pytest.raises(SourceForbidden, match=r"key\.json cannot be used.*correct"):
        caller.resolved()


def test_the_metadata_server(server: TokenServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "false")
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP"):
        monkeypatch.setenv(name, server.authority)
    found = GsEnvironment(SOURCE, {"GOOGLE_CLOUD_QUOTA_PROJECT": "p"}).resolved()
    assert found == {"STREAMER_GCS_BEARER": "token-1", "GOOGLE_CLOUD_QUOTA_PROJECT": "p"}


def test_without_any_credentials_requests_are_anonymous() -> None:
    assert GsEnvironment(SOURCE, {}).resolved() == {}


def test_an_emulator_gets_no_credentials(key_file: str, server: TokenServer) -> None:
    environ = {
        "STORAGE_EMULATOR_HOST": "127.0.0.1:9",
        "GOOGLE_APPLICATION_CREDENTIALS": key_file,
    }
    assert GsEnvironment(SOURCE, environ).resolved() == {
        "STREAMER_GCS_ENDPOINT": "http://127.0.0.1:9"
    }
    assert server.given == 0


def test_a_token_from_elsewhere_and_options_travel_as_they_are() -> None:
    environ = {
        "STREAMER_GCS_BEARER": "mine",
        "STREAMER_GCS_ENDPOINT": "https://storage.internal",
        "RUNAI_STREAMER_S3_MAX_RETRIES": "3",
        "GOOGLE_APPLICATION_CREDENTIALS": "/none",
        "HOME": "/h",
    }
    assert GsEnvironment(SOURCE, environ).resolved() == {
        name: environ[name] for name in list(environ)[:3]
    }
    with pytest.raises(ConfigError, match="plain text"):
        GsEnvironment(SOURCE, {**environ, "STREAMER_GCS_ENDPOINT": "http://elsewhere"}).resolved()


WITHOUT_LIBRARIES = """
import sys
for name in ("google.auth", "azure", "azure.identity", "azure.storage", "azure.storage.blob"):
    sys.modules[name] = None
from streamer_client.contract.errors import ConfigError
from streamer_client.storage.registry import source_environment, storage_for
given = {"AZURE_STORAGE_ACCOUNT_NAME": "acc"}
key = {**given, "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}
for uri, environ in (("gs://models/m", {}), ("az://models/m", given), ("az://models/m", key)):
    try:
        source_environment(uri, environ).resolved()
    except ConfigError as error:
        print(error)
anonymous = {"RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS": "1"}
storage_for("gs://models/m", source_environment("gs://models/m", anonymous).resolved())
sas = {**given, "AZURE_STORAGE_SAS_TOKEN": "sig=x"}
storage_for("az://models/m", source_environment("az://models/m", sas).resolved())
"""


def test_without_the_libraries_it_is_told_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBRARIES], capture_output=True, text=True, check=True
    )
    gs, az, key = done.stdout.splitlines()
    assert gs.startswith("gs://models/m: ")
    assert "pip install 'streamerd[gcs]'" in gs
    for told in (az, key):
        assert told.startswith("az://models/m: ")
        assert "pip install 'streamerd[azure]'" in told


def test_libraries_are_imported_when_needed_and_not_before() -> None:
    code = (
        "import sys\n"
        "from streamer_client.storage.registry import source_environment, storage_for\n"
        "source_environment('gs://models/m', {}); storage_for('gs://models/m', {})\n"
        "sas = {'AZURE_STORAGE_ENDPOINT': 'https://a.b', 'AZURE_STORAGE_SAS_TOKEN': 'sig=x'}\n"
        "source_environment('az://models/m', sas).resolved(); storage_for('az://models/m', sas)\n"
        "print(sorted(m for m in sys.modules if m.startswith(('google.auth', 'azure', 'boto'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
