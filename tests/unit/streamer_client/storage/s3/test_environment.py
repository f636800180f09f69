"""The settings that a caller sends along, from variables, profiles and everything that botocore
finds.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from pathlib import Path

import pytest
from tests.support.certificates import Authority

from streamer_client.contract.errors import ConfigError, SourceForbidden
from streamer_client.runai.s3_utils.s3_utils import S3Credentials, with_credentials
from streamer_client.storage.s3.environment import S3Environment
from streamer_client.storage.s3.settings import s3_settings


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide this machine's variables, and use the test's own configuration files."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "RUNAI_", "SSL_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


def variables(uri: str = "s3://bucket/m") -> dict[str, str]:
    return S3Environment(uri, os.environ).resolved()


def test_nothing_anywhere_means_unsigned() -> None:
    assert variables() == {}


@pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
def test_a_profile_that_is_set_to_nothing_is_none(
    config: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (config / "config").write_text("[default]\nregion = eu-west-1\n")
    monkeypatch.setenv(name, "")
    assert variables() == {"AWS_REGION": "eu-west-1"}


def test_variables_travel_under_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "token",
        "AWS_REGION": "eu-west-1",
        "HTTPS_PROXY": "http://proxy:1",
        "no_proxy": "h",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS": "5000",
        "RUNAI_STREAMER_S3_MAX_RETRIES": "7",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UNRELATED", "x")
    assert variables() == given


@pytest.mark.parametrize(
    "names",
    [
        ("RUNAI_STREAMER_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL",),
    ],
)
def test_endpoints_in_their_order(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in enumerate(names):
        monkeypatch.setenv(name, f"http://host{place}")
    assert s3_settings(variables()).endpoint == "http://host0"


def test_certificates_travel_in_place_of_their_path(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Authority(_folder(config, name)).bundle for name in ("first", "second"))
    (config / "config").write_text(f"[default]\nca_bundle = {second}\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(config / "nowhere"))
    assert variables() == {"STREAMER_TLS_AUTHORITIES": second.read_text()}
    monkeypatch.setenv("AWS_CA_BUNDLE", str(first))
    assert variables() == {"STREAMER_TLS_AUTHORITIES": first.read_text()}
    monkeypatch.setenv("AWS_CA_BUNDLE", str(config / "nowhere"))
    with pytest.raises(ConfigError, match=r"^AWS_CA_BUNDLE=.*nowhere: cannot be used: No such"):
        variables()


def _folder(config: Path, name: str) -> Path:
    (config / name).mkdir()
    return config / name


def test_a_profile_with_all_that_it_can_say(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(config))
    bundle = Authority(config).bundle
    (config / "config").write_text(
        f"[profile lab]\nregion = lab-1\nca_bundle = ~/{bundle.name}\nservices = lab-services\n"
        "endpoint_url = http://general:1\ns3 =\n  addressing_style = path\n"
        "use_dualstack_endpoint = true\nmax_attempts = 3\n"
        "[services lab-services]\ns3 =\n  endpoint_url = http://lab:9000\n"
    )
    (config / "credentials").write_text(
        "[lab]\naws_access_key_id = id\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert variables() == {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "lab-1",
        "AWS_ENDPOINT_URL_S3": "http://lab:9000",
        "STREAMER_TLS_AUTHORITIES": bundle.read_text(),
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "AWS_MAX_ATTEMPTS": "3",
    }
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://mine:1")
    assert variables()["AWS_ENDPOINT_URL_S3"] == "http://mine:1"


def test_a_static_file_that_was_renewed_is_read_again(config: Path) -> None:
    caller = S3Environment("s3://bucket/m", os.environ)
    for number in (1, 2):
        (config / "credentials").write_text(
            f"[default]\naws_access_key_id = id{number}\naws_secret_access_key = s{number}\n"
        )
        assert caller.resolved()["AWS_ACCESS_KEY_ID"] == f"id{number}"


def process_profile(config: Path, expires_in: dt.timedelta) -> None:
    """A profile whose credentials come from a program, which counts how often it was called."""
    counter = config / "calls"
    answer = {
        "Version": 1,
        "SecretAccessKey": "secret",
        "SessionToken": "token",
        "Expiration": (dt.datetime.now(dt.UTC) + expires_in).isoformat(),
    }
    program = config / "program.py"
    program.write_text(
        "import json\n"
        f"open({str(counter)!r}, 'a').write('.')\n"
        f"calls = len(open({str(counter)!r}).read())\n"
        f"answer = json.loads({json.dumps(answer)!r})\n"
        "print(json.dumps({**answer, 'AccessKeyId': f'id{calls}'}))\n"
    )
    (config / "config").write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")


def test_credentials_about_to_expire_are_renewed(config: Path) -> None:
    process_profile(config, dt.timedelta(minutes=1))
    caller = S3Environment("s3://bucket/m", os.environ)
    first, second = caller.resolved(), caller.resolved()
    assert "AWS_SESSION_TOKEN" in first
    assert first["AWS_ACCESS_KEY_ID"] != second["AWS_ACCESS_KEY_ID"]


def test_credentials_that_hold_are_not_asked_for_again(config: Path) -> None:
    process_profile(config, dt.timedelta(hours=1))
    caller = S3Environment("s3://bucket/m", os.environ)
    assert caller.resolved() == caller.resolved()
    assert (config / "calls").read_text() == "."


def test_unsigned_asks_for_no_credentials(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process_profile(config, dt.timedelta(hours=1))
    monkeypatch.setenv("RUNAI_STREAMER_S3_UNSIGNED", "1")
    assert variables() == {"RUNAI_STREAMER_S3_UNSIGNED": "1"}
    assert not (config / "calls").exists()


def test_what_is_configured_wrongly(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config / "config").write_text("[default]\ncredential_process = false\n")
    with pytest.raises(SourceForbidden, match=r"s3://bucket/m: credentials are configured.*renew"):
        variables()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "ftp://h")
    monkeypatch.setenv("RUNAI_STREAMER_S3_UNSIGNED", "1")
    with pytest.raises(ConfigError, match="ftp"):
        variables()
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(ConfigError, match=r"absent.*correct AWS_PROFILE"):
        variables()
    with pytest.raises(ConfigError, match="no name of a bucket"):
        variables("s3://")


BROKEN = {
    "a profile that is nowhere": {"AWS_PROFILE": "nowhere"},
    "a default profile that is nowhere": {"AWS_DEFAULT_PROFILE": "nowhere"},
    "a file that is none": {},
    "keys of somebody else": {"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other"},
    "half of a pair": {"AWS_ACCESS_KEY_ID": "other"},
    "a token of somebody else": {"AWS_SESSION_TOKEN": "other"},
    "a role to assume": {"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere", "AWS_ROLE_ARN": "arn:x"},
}


@pytest.mark.parametrize("environment", BROKEN.values(), ids=BROKEN)
def test_explicit_keys_read_neither_profile_nor_environment(
    environment: dict[str, str], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config / "config").write_text("[default\nregion = broken")
    (config / "credentials").write_text("no section")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((ConfigError, SourceForbidden)):
        variables()
    given = with_credentials(os.environ, S3Credentials("id", "secret"))
    assert S3Environment("s3://bucket/m", given).resolved() == {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }


def test_explicit_keys_take_what_is_no_identity_from_the_environment(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config / "config").write_text("[default]\nregion = other\nendpoint_url = http://other\n")
    bundle = Authority(config).bundle
    for name, value in {
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://store:9000",
        "AWS_CA_BUNDLE": str(bundle),
        "AWS_REQUEST_PAYER": "requester",
    }.items():
        monkeypatch.setenv(name, value)
    given = with_credentials(os.environ, S3Credentials("id", "secret", "token"))
    assert S3Environment("s3://bucket/m", given).resolved() == {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "token",
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL_S3": "http://store:9000",
        "AWS_REQUEST_PAYER": "requester",
        "STREAMER_TLS_AUTHORITIES": bundle.read_text(),
    }
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY is not"):
        S3Environment("s3://bucket", with_credentials(os.environ, S3Credentials("id"))).resolved()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("AWS_ENDPOINT_URL", "store:9000:1", "AWS_ENDPOINT_URL: "),
        ("RUNAI_STREAMER_S3_ENDPOINT", "ftp://store", "RUNAI_STREAMER_S3_ENDPOINT: "),
        ("AWS_ACCESS_KEY_ID", "id", "AWS_SECRET_ACCESS_KEY is not; set both"),
    ],
)
def test_what_is_malformed_is_told_by_the_name_that_was_set(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        variables()
    assert told in str(caught.value)


KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
ENOUGH: dict[str, dict[str, str]] = {
    "keys": KEYS,
    "keys and a token": {**KEYS, "AWS_SESSION_TOKEN": "token"},
    "a region": {**KEYS, "AWS_REGION": "eu-west-1"},
    "a default region": {**KEYS, "AWS_DEFAULT_REGION": "eu-west-2"},
    "both regions": {**KEYS, "AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"},
    "an endpoint": {**KEYS, "AWS_ENDPOINT_URL": "http://store:9000"},
    "options": {**KEYS, "AWS_MAX_ATTEMPTS": "3", "AWS_USE_FIPS_ENDPOINT": "true"},
    "a role beside the keys": {**KEYS, "AWS_ROLE_ARN": "arn:x"},
    "unsigned": {"RUNAI_STREAMER_S3_UNSIGNED": "1", "AWS_DEFAULT_REGION": "eu-west-2"},
    "unsigned with keys": {**KEYS, "RUNAI_STREAMER_S3_UNSIGNED": "1"},
}


@pytest.mark.parametrize("given", ENOUGH.values(), ids=ENOUGH)
def test_where_variables_say_all_botocore_would_say_the_same(
    given: dict[str, str], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environment = S3Environment("s3://bucket/m", os.environ)
    alone = environment.resolved()
    assert environment._profiles is None, "botocore was not asked"
    (config / "config").write_text("")
    assert environment.resolved() == alone
    assert environment._profiles is not None, "a file may say something, so botocore reads it"


@pytest.mark.parametrize(
    "given",
    [{}, {"AWS_ACCESS_KEY_ID": "id"}, {**KEYS, "AWS_PROFILE": "p"}],
    ids=["nothing", "half of a pair", "a profile's name"],
)
def test_where_variables_do_not_say_all_botocore_is_asked(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert not S3Environment("s3://bucket/m", os.environ)._variables_say_all()


def test_a_file_named_with_a_variable_counts(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FOLDER", str(config))
    monkeypatch.setenv("AWS_CONFIG_FILE", "$FOLDER/config")
    (config / "config").write_text("[default]\nregion = eu-west-1\n")
    assert variables()["AWS_REGION"] == "eu-west-1"
