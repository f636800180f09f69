"""Cloud Storage without a network: URIs, variables, and the meaning of its answers."""

from __future__ import annotations

import json

import pytest

from streamer_client.contract.errors import (
    ConfigError,
    CredentialsExpired,
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotFound,
    StreamerError,
)
from streamer_client.storage.gs.dialect import GsDialect
from streamer_client.storage.gs.metadata import ObjectMetadata, listing, object_metadata
from streamer_client.storage.gs.settings import GsSettings, gs_settings
from streamer_client.storage.gs.uri import gs_uri, listing_url, object_url
from streamer_client.storage.http.dialect import Answer, Request
from streamer_client.storage.http.retry import Transient

HOST = "https://storage.googleapis.com"


@pytest.mark.parametrize(
    "text", ["gs://", "gs:///k", "gs://B_/k", "gs://a/k", "gs://b ucket/k", "s3://bucket/k"]
)
def test_what_is_no_bucket(text: str) -> None:
    with pytest.raises(ConfigError, match="gs://bucket/path"):
        gs_uri(text)


def test_a_name_is_one_segment_of_the_path() -> None:
    url = object_url(HOST, gs_uri("gs://b.c-d_e/a b/ü?#%+/.."), {"alt": "media"})
    assert url == f"{HOST}/storage/v1/b/b.c-d_e/o/a%20b%2F%C3%BC%3F%23%25%2B%2F..?alt=media"
    assert listing_url(HOST, gs_uri("gs://bkt"), {"prefix": "a b/"}).endswith("/o?prefix=a%20b%2F")


def test_settings() -> None:
    assert gs_settings({}) == GsSettings()
    found = gs_settings(
        {
            "STREAMER_GCS_BEARER": "hush",
            "STREAMER_GCS_ENDPOINT": "storage.internal:8443/",
            "GOOGLE_CLOUD_QUOTA_PROJECT": "p",
        }
    )
    assert (found.endpoint, found.bearer) == ("https://storage.internal:8443", "hush")
    assert found.user_project == "p"
    assert "hush" not in repr(found)
    unsigned = {"RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS": "true"}
    assert gs_settings({"STREAMER_GCS_BEARER": "hush", **unsigned}).bearer == ""


@pytest.mark.parametrize(
    "environment",
    [
        {"STREAMER_GCS_BEARER": "t", "STREAMER_GCS_ENDPOINT": "http://elsewhere"},
        {"STREAMER_GCS_ENDPOINT": "https://h?x=1"},
        {"RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS": "maybe"},
    ],
)
def test_malformed_variables_are_named(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=list(environment)[-1]):
        gs_settings(environment)


def test_metadata_and_listings() -> None:
    body = b'{"size": "12", "generation": "1700", "contentEncoding": "gzip", "kind": "x"}'
    assert object_metadata("gs://b/k", body) == ObjectMetadata("12", "1700", "gzip")
    assert listing("gs://b", b"{}").items == []
    page = listing("gs://b", b'{"items": [{"name": "a"}], "nextPageToken": "t"}')
    assert ([item.name for item in page.items], page.next_page_token) == (["a"], "t")


@pytest.mark.parametrize("body", [b"<html>", b'{"size": "x", "generation": "1"}', b"{}", b""])
def test_another_answer_is_no_metadata(body: bytes) -> None:
    with pytest.raises(SourceError, match=r"gs://b/k: .*STREAMER_GCS_ENDPOINT"):
        object_metadata("gs://b/k", body)


def test_another_answer_is_no_listing() -> None:
    with pytest.raises(SourceError, match="not one of Cloud Storage's JSON API"):
        listing("gs://b", b"<html>")


def test_requests_carry_token_and_project() -> None:
    request = Request("GET", f"{HOST}/x", "gs://b/x", {"Range": "bytes=0-1"})
    assert GsDialect(GsSettings()).prepared(request) == request
    sent = GsDialect(GsSettings(bearer="t", user_project="p")).prepared(request)
    assert sent.headers == {
        "Range": "bytes=0-1",
        "Authorization": "Bearer t",
        "x-goog-user-project": "p",
    }


def meaning(
    status: int, reason: str, message: str, settings: GsSettings | None = None, path: str = "/o/k"
) -> StreamerError | Exception:
    request = Request("GET", f"{HOST}/storage/v1/b/b{path}", "gs://b/k")
    body = json.dumps({"error": {"message": message, "errors": [{"reason": reason}]}}).encode()
    answer = Answer(status, {"x-guploader-uploadid": "ID1"}, body)
    return GsDialect(settings or GsSettings(bearer="hush")).refusal(request, request, answer)


@pytest.mark.parametrize(
    ("status", "reason", "message", "kind", "text"),
    [
        (401, "authError", "Invalid Credentials", CredentialsExpired, "renew it"),
        (403, "forbidden", "no access", SourceForbidden, "role Storage Object Viewer"),
        (403, "rateLimitExceeded", "slow", Transient, ""),
        (403, "vpcServiceControls", "Request is prohibited", SourceForbidden, "perimeter"),
        (403, "accountDisabled", "billing account is disabled", SourceForbidden, "no billing"),
        (404, "notFound", "No such object: b/k", SourceNotFound, "bucket and name"),
        (404, "notFound", "The specified bucket does not exist.", SourceNotFound, "the bucket's"),
        (400, "required", "Bucket is a requester pays bucket", SourceError, "QUOTA_PROJECT"),
        (412, "conditionNotMet", "no", SourceChanged, "open the checkpoint again"),
        (429, "rateLimitExceeded", "slow", Transient, ""),
        (503, "backendError", "busy", Transient, ""),
        (500, "", "", Transient, ""),
    ],
)
def test_meanings(status: int, reason: str, message: str, kind: type[Exception], text: str) -> None:
    found = meaning(status, reason, message)
    assert type(found) is kind
    told = str(found)
    assert text in told
    assert f"HTTP {status}" in told
    assert "x-guploader-uploadid ID1" in told
    assert HOST in told
    assert "hush" not in told
    if kind is not Transient:
        assert told.startswith("gs://b/k: ")


def test_the_permission_that_is_missing_is_named() -> None:
    assert "storage.objects.get" in str(meaning(403, "forbidden", "no"))
    assert "storage.objects.list" in str(meaning(403, "forbidden", "no", path="/o?prefix=m"))


def test_plain_text_is_told_and_pages_are_not() -> None:
    request = Request("GET", f"{HOST}/storage/v1/b/b/o/k", "gs://b/k")
    for media, expected in (("text/plain; charset=utf-8", True), ("text/html", False)):
        answer = Answer(404, {"content-type": media}, b"No such object: b/k\n")
        found = str(GsDialect(GsSettings()).refusal(request, request, answer))
        assert ('"No such object: b/k"' in found) is expected
