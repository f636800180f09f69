"""One row for each answer of S3, and the consequences of its refusals."""

from __future__ import annotations

import datetime as dt
from email.utils import format_datetime
from urllib.parse import urlsplit

import pytest

from streamer_client.contract.errors import (
    CredentialsExpired,
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotFound,
)
from streamer_client.storage.http.dialect import Answer, Request, Verdict
from streamer_client.storage.http.retry import SendAgain, Transient
from streamer_client.storage.s3.dialect import Lessons, S3Dialect
from streamer_client.storage.s3.settings import s3_settings

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
KEYS = {
    "AWS_ACCESS_KEY_ID": "id",
    "AWS_SECRET_ACCESS_KEY": "hush-secret",
    "AWS_SESSION_TOKEN": "hush-token",
}
OBJECT = Request("GET", "s3://bucket/m/a.st", "s3://bucket/m/a.st", {"Range": "bytes=0-7"})
LISTING = Request("GET", "s3://bucket/?list-type=2&prefix=m%2F", "s3://bucket/m")
ENDPOINT = "http://store:9000"


def dialect(**environment: str) -> S3Dialect:
    return S3Dialect(s3_settings(environment), Lessons(), lambda: NOW)


def signed_dialect(**environment: str) -> S3Dialect:
    return dialect(AWS_ENDPOINT_URL=ENDPOINT, **KEYS, **environment)


def refused(
    spoken: S3Dialect, status: int, code: str = "", request: Request = OBJECT, **headers: str
) -> Verdict:
    body = f"<Error><Code>{code}</Code><Message>So it is.</Message></Error>" if code else ""
    given = {"x-amz-request-id": "ID1"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return spoken.refusal(request, spoken.prepared(request), Answer(status, given, body.encode()))


@pytest.mark.parametrize(
    ("status", "code", "kind", "remedy"),
    [
        (404, "NoSuchBucket", SourceNotFound, "check the bucket's name"),
        (404, "NoSuchKey", SourceNotFound, "check the key"),
        (404, "", SourceNotFound, "check the name"),
        (405, "MethodNotAllowed", SourceError, "check the endpoint"),
        (403, "AccessDenied", SourceForbidden, "s3:GetObject on arn:aws:s3:::bucket/m/a.st"),
        (403, "AllAccessDisabled", SourceForbidden, "AWS_REQUEST_PAYER"),
        (403, "InvalidAccessKeyId", SourceForbidden, "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", SourceForbidden, "AWS_SECRET_ACCESS_KEY"),
        (403, "InvalidObjectState", SourceForbidden, "Glacier"),
        (403, "RequestTimeTooSkewed", SourceForbidden, "NTP"),
        (400, "InvalidToken", SourceError, "AWS_SESSION_TOKEN"),
        (400, "InvalidBucketName", SourceError, "typing errors"),
        (400, "AuthorizationHeaderMalformed", SourceError, "AWS_REGION"),
        (301, "PermanentRedirect", SourceError, "AWS_REGION"),
        (412, "PreconditionFailed", SourceChanged, "open the checkpoint again"),
        (416, "InvalidRange", SourceChanged, "open the checkpoint again"),
        (400, "ExpiredToken", CredentialsExpired, "renew"),
        (403, "ExpiredTokenException", CredentialsExpired, "renew"),
        (403, "RequestExpired", CredentialsExpired, "renew"),
        (400, "TokenRefreshRequired", CredentialsExpired, "renew"),
    ],
)
def test_what_is_final(status: int, code: str, kind: type[Exception], remedy: str) -> None:
    found = refused(signed_dialect(), status, code)
    assert type(found) is kind
    text = str(found)
    assert text.startswith("s3://bucket/m/a.st: ")
    said = f'HTTP {status} {code} "So it is."' if code else f"HTTP {status}"
    for part in (said, ENDPOINT, "x-amz-request-id ID1", remedy):
        assert part in text
    assert "hush" not in text


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((500, "InternalError"), (502, ""), (503, "SlowDown"), (503, ""), (504, "")),
        *((429, "TooManyRequests"), (400, "RequestTimeout"), (403, "RequestLimitExceeded")),
    ],
)
def test_what_may_pass(status: int, code: str) -> None:
    found = refused(signed_dialect(), status, code, retry_after="3")
    assert isinstance(found, Transient)
    assert f"HTTP {status}" in str(found)
    assert found.after_s == 3.0


def test_an_expired_token_by_another_word() -> None:
    body = b"<Error><Code>InvalidToken</Code><Message>The token has expired.</Message></Error>"
    spoken = signed_dialect()
    found = spoken.refusal(OBJECT, spoken.prepared(OBJECT), Answer(400, {}, body))
    assert isinstance(found, CredentialsExpired)


def test_which_permission_is_needed_and_why() -> None:
    text = str(refused(signed_dialect(), 403, "AccessDenied", LISTING))
    assert "needed is s3:ListBucket on arn:aws:s3:::bucket" in text
    assert "GetObject" not in text
    anonymous = dialect(AWS_ENDPOINT_URL=ENDPOINT)
    text = str(refused(anonymous, 403, "AccessDenied"))
    assert "no credentials were found where the request came from (environment, profile" in text
    asked = dialect(AWS_ENDPOINT_URL=ENDPOINT, RUNAI_STREAMER_S3_UNSIGNED="1")
    assert "RUNAI_STREAMER_S3_UNSIGNED=1" in str(refused(asked, 403, "AccessDenied"))
    paying = signed_dialect(AWS_REQUEST_PAYER="requester")
    assert "AWS_REQUEST_PAYER" not in str(refused(paying, 403, "AccessDenied"))


def test_a_page_in_place_of_an_error() -> None:
    spoken = signed_dialect()
    answer = Answer(403, {}, b"<!DOCTYPE html><html>Forbidden by the proxy</html>")
    found = spoken.refusal(OBJECT, spoken.prepared(OBJECT), answer)
    assert isinstance(found, SourceForbidden)


# --- requests


def test_requests_are_addressed_and_signed() -> None:
    sent = signed_dialect(AWS_REQUEST_PAYER="requester").prepared(OBJECT)
    assert sent.url == f"{ENDPOINT}/bucket/m/a.st"
    assert sent.about == OBJECT.about
    assert sent.headers["x-amz-request-payer"] == "requester"
    assert "x-amz-request-payer" in sent.headers["Authorization"]
    assert sent.headers["X-Amz-Date"] == "20261124T120000Z"
    assert dialect(AWS_ENDPOINT_URL=ENDPOINT).prepared(OBJECT).headers == OBJECT.headers
    listing = signed_dialect().prepared(LISTING)
    assert listing.url == f"{ENDPOINT}/bucket/?list-type=2&prefix=m%2F"


def test_a_key_that_looks_like_a_path() -> None:
    odd = Request("GET", "s3://bucket//a/../b%2520//", "s3://bucket//a/../b%20//")
    assert signed_dialect().prepared(odd).url == f"{ENDPOINT}/bucket//a/../b%2520//"


# --- lessons


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (301, {"x-amz-bucket-region": "eu-west-1"}, ""),
        (307, {"x-amz-bucket-region": "eu-west-1", "location": "https://elsewhere/"}, ""),
        (400, {"x-amz-bucket-region": "eu-west-1"}, ""),
        (400, {}, "<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region>"),
        (403, {}, "<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region>"),
    ],
)
def test_the_bucket_is_in_another_region(status: int, headers: dict[str, str], body: str) -> None:
    spoken = dialect(**KEYS)
    sent = spoken.prepared(OBJECT)
    assert "us-east-1" in sent.url
    answer = Answer(status, headers, f"<Error>{body}</Error>".encode())
    assert isinstance(spoken.refusal(OBJECT, sent, answer), SendAgain)
    again = spoken.prepared(OBJECT)
    assert again.url == "https://bucket.s3.eu-west-1.amazonaws.com/m/a.st"
    assert "/eu-west-1/s3/" in again.headers["Authorization"]
    # The region is known by now, so the same refusal teaches nothing new and becomes an error. The
    # 307 names another host as well, so a request to that host follows.
    assert not isinstance(spoken.refusal(OBJECT, again, answer), SendAgain) or status == 307


def test_another_bucket_keeps_its_region() -> None:
    spoken = dialect(**KEYS)
    refused(spoken, 301, x_amz_bucket_region="eu-west-1")
    other = Request("GET", "s3://other/k", "s3://other/k")
    assert urlsplit(spoken.prepared(other).url).netloc == "other.s3.us-east-1.amazonaws.com"


def test_a_permission_is_no_matter_of_region() -> None:
    found = refused(dialect(**KEYS), 403, "AccessDenied", x_amz_bucket_region="eu-west-1")
    assert isinstance(found, SourceForbidden)


def test_redirected_to_another_host() -> None:
    spoken = dialect(**KEYS)
    place = "https://bucket.s3-us-west-2.amazonaws.com/m/a.st"
    assert isinstance(refused(spoken, 307, location=place), SendAgain)
    assert spoken.prepared(OBJECT).url == place
    assert isinstance(refused(spoken, 307, location=place), SourceError)


def test_never_from_tls_to_plain_text() -> None:
    spoken = dialect(**KEYS)
    found = refused(spoken, 307, location="http://bucket.elsewhere/m/a.st")
    assert isinstance(found, SourceError)
    assert spoken.prepared(OBJECT).url.startswith("https://bucket.s3.")


def test_a_wrong_clock_is_corrected_once() -> None:
    spoken = signed_dialect()
    theirs = format_datetime(NOW + dt.timedelta(hours=1), usegmt=True)
    assert isinstance(refused(spoken, 403, "RequestTimeTooSkewed", date=theirs), SendAgain)
    assert spoken.prepared(OBJECT).headers["X-Amz-Date"] == "20261124T130000Z"
    found = refused(spoken, 403, "RequestTimeTooSkewed", date=theirs)
    assert isinstance(found, SourceForbidden)
    assert "NTP" in str(found)


def test_identity_tells_stores_apart() -> None:
    assert dialect().endpoint == "aws"
    assert signed_dialect().endpoint == ENDPOINT
