"""Signatures are the same as botocore's own, whatever the store's time is."""

from __future__ import annotations

import datetime as dt

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from streamer_client.storage.s3.settings import Keys
from streamer_client.storage.s3.signing import signed_headers

NOW = dt.datetime(2026, 11, 24, 22, 9, 28, tzinfo=dt.UTC)
HEADERS = {"Range": "bytes=0-7", "If-Match": '"x"', "x-amz-request-payer": "requester"}


@pytest.mark.parametrize("token", ["", "a-token"])
@pytest.mark.parametrize(
    "url",
    [
        "https://bucket.s3.eu-west-1.amazonaws.com/a/b%20c%2B//d.st",
        "http://127.0.0.1:9000/bucket/%C3%BC",
        "https://h/bucket?delimiter=%2F&list-type=2&prefix=a%20b%2F",
    ],
)
def test_as_botocore_signs(url: str, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: NOW)
    request = AWSRequest("GET", url, headers=HEADERS)
    credentials = Credentials("ID", "the-secret", token or None)
    S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)
    found = signed_headers(Keys("ID", "the-secret", token), "eu-west-1", "GET", url, HEADERS, NOW)
    lowered = {name.lower(): value for name, value in found.items()}
    assert lowered == {name.lower(): value for name, value in request.headers.items()}
    assert "the-secret" not in str(found)
