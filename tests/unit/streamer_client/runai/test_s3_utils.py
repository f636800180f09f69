"""A key replaces the whole identity, and region and endpoint replace every variable for them."""

from __future__ import annotations

from streamer_client.runai.s3_utils.s3_utils import S3Credentials, with_credentials

ENVIRON = {
    "AWS_ACCESS_KEY_ID": "old",
    "AWS_SECRET_ACCESS_KEY": "old secret",
    "AWS_SESSION_TOKEN": "old token",
    "AWS_PROFILE": "team",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_ENDPOINT_URL_S3": "http://old",
    "PATH": "/bin",
}


def test_none_is_the_environment_itself() -> None:
    assert with_credentials(ENVIRON, None) is ENVIRON
    assert with_credentials(ENVIRON, S3Credentials()) == ENVIRON


def test_a_key_leaves_no_half_of_the_old_identity() -> None:
    merged = with_credentials(ENVIRON, S3Credentials("new", "new secret"))
    assert merged["AWS_ACCESS_KEY_ID"] == "new"
    assert merged["AWS_SECRET_ACCESS_KEY"] == "new secret"  # noqa: S105
    assert not {"AWS_SESSION_TOKEN", "AWS_PROFILE"} & set(merged)
    assert merged["AWS_DEFAULT_REGION"] == "eu-west-1"


def test_a_token_alone_goes_with_the_keys_that_are_there() -> None:
    merged = with_credentials(ENVIRON, S3Credentials(session_token="new token"))  # noqa: S106
    assert merged["AWS_SESSION_TOKEN"] == "new token"  # noqa: S105
    assert merged["AWS_ACCESS_KEY_ID"] == "old"


def test_region_and_endpoint_win_over_every_variable() -> None:
    merged = with_credentials(ENVIRON, S3Credentials(region_name="us-1", endpoint="http://new"))
    assert {merged["AWS_REGION"], merged["AWS_DEFAULT_REGION"]} == {"us-1"}
    assert {
        merged["AWS_ENDPOINT_URL"],
        merged["AWS_ENDPOINT_URL_S3"],
        merged["RUNAI_STREAMER_S3_ENDPOINT"],
    } == {"http://new"}


def test_its_text_tells_no_secret() -> None:
    text = repr(S3Credentials("key", "secret", "token", "us-1", "http://new"))
    assert text == "S3Credentials(region_name='us-1', endpoint='http://new')"
