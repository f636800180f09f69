"""Azure without a network: URIs, variables, connection strings, and the meaning of its answers."""

from __future__ import annotations

import datetime as dt

import pytest

from streamer_client.contract.errors import (
    ConfigError,
    CredentialsExpired,
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotFound,
)
from streamer_client.storage.az.connection_string import ConnectionString, connection_string
from streamer_client.storage.az.dialect import AzDialect
from streamer_client.storage.az.environment import account_of
from streamer_client.storage.az.listing import parse_page
from streamer_client.storage.az.settings import AzSettings, az_settings, expiry_of
from streamer_client.storage.az.uri import az_uri, blob_url, listing_url
from streamer_client.storage.http.dialect import Answer, Request
from streamer_client.storage.http.retry import Transient

HOST = "https://acc.blob.core.windows.net"
SAS = "sv=2024&sp=rl&se=2026-01-01T00%3A00%3A00Z&sig=hush"
BEFORE = dt.datetime(2025, 12, 31, tzinfo=dt.UTC)
AFTER = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


# --- URIs


@pytest.mark.parametrize(
    "text", ["az://", "az:///k", "az://Models/k", "az://a--b/k", "az://-ab/k", "s3://models/k"]
)
def test_what_is_no_container(text: str) -> None:
    with pytest.raises(ConfigError, match=r"az://container/path.*AZURE_STORAGE_ACCOUNT_NAME"):
        az_uri(text)


@pytest.mark.parametrize("text", ["az://models", "az://$root/k", "az://m-1-2/k", "AZ://abc/k"])
def test_containers(text: str) -> None:
    assert az_uri(text).bucket


def test_a_signature_in_a_uri_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="AZURE_STORAGE_SAS_TOKEN") as caught:
        az_uri(f"az://models/a?{SAS}")
    assert "hush" not in str(caught.value)


def test_urls() -> None:
    url = blob_url(f"{HOST}/acc", az_uri("az://models/a b/ü?#%+~.bin"))
    assert url == f"{HOST}/acc/models/a%20b/%C3%BC%3F%23%25%2B~.bin"
    assert listing_url(HOST, az_uri("az://abc/k"), {"prefix": "a b/"}) == (
        f"{HOST}/abc?prefix=a%20b%2F"
    )


# --- variables


def test_settings() -> None:
    found = az_settings(
        {
            "AZURE_STORAGE_ENDPOINT": f"{HOST}/",
            "AZURE_STORAGE_SAS_TOKEN": f"?{SAS}",
            "STREAMER_AZURE_BEARER": "hush",
        }
    )
    assert (found.endpoint, found.sas, found.bearer) == (HOST, SAS, "")
    assert "hush" not in repr(found)
    public = az_settings(
        {
            "AZURE_STORAGE_ENDPOINT": HOST,
            "AZURE_STORAGE_SAS_TOKEN": SAS,
            "STREAMER_AZURE_ANONYMOUS": "1",
        }
    )
    assert (public.sas, public.bearer) == ("", "")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "AZURE_STORAGE_ACCOUNT_NAME"),
        (
            {"AZURE_STORAGE_SAS_TOKEN": "hush", "AZURE_STORAGE_ENDPOINT": HOST},
            "AZURE_STORAGE_SAS_TOKEN",
        ),
        (
            {"STREAMER_AZURE_BEARER": "hush", "AZURE_STORAGE_ENDPOINT": "http://h"},
            "AZURE_STORAGE_ENDPOINT",
        ),
        (
            {"STREAMER_AZURE_ANONYMOUS": "maybe", "AZURE_STORAGE_ENDPOINT": HOST},
            "STREAMER_AZURE_ANONYMOUS",
        ),
    ],
)
def test_malformed_variables_are_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        az_settings(environment)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "AccountName=acc;AccountKey=a2V5==;EndpointSuffix=core.chinacloudapi.cn",
            ConnectionString("https://acc.blob.core.chinacloudapi.cn", "acc", "a2V5=="),
        ),
        (
            "AccountName=acc;AccountKey=k=;BlobEndpoint=http://127.0.0.1:1/acc;",
            ConnectionString("http://127.0.0.1:1/acc", "acc", "k="),
        ),
        (
            f"BlobEndpoint={HOST}/;SharedAccessSignature={SAS}",
            ConnectionString(f"{HOST}/", sas=SAS),
        ),
    ],
)
def test_connection_strings(text: str, found: ConnectionString) -> None:
    assert connection_string(text) == found
    assert "a2V5" not in repr(found)
    assert "hush" not in repr(found)


@pytest.mark.parametrize("text", ["hush", "AccountKey=hush", "UseDevelopmentStorage=true"])
def test_malformed_connection_strings_are_not_shown(text: str) -> None:
    with pytest.raises(ConfigError, match="AZURE_STORAGE_CONNECTION_STRING") as caught:
        connection_string(text)
    assert "hush" not in str(caught.value)


def test_accounts_by_their_endpoints() -> None:
    assert account_of("https://acc.privatelink.blob.core.windows.net") == "acc"
    assert account_of("http://127.0.0.1:10000/acc") == "acc"
    assert account_of("") == ""


@pytest.mark.parametrize(
    ("sas", "expiry"),
    [
        (SAS, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
        ("se=2026-01-01&sig=x", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
        ("si=policy&sig=x", None),
        ("se=soon&sig=x", None),
        ("", None),
    ],
)
def test_expiry_of(sas: str, expiry: dt.datetime | None) -> None:
    assert expiry_of(sas) == expiry


# --- answers


def test_a_page_without_what_stands_for_directories() -> None:
    body = """<?xml version="1.0"?><EnumerationResults><Blobs>
      <Blob><Name>m/a b&amp;.bin</Name><Metadata><who>me</who></Metadata>
        <Properties><Content-Length>7</Content-Length><Etag>0x8D</Etag></Properties></Blob>
      <Blob><Name>m/sub</Name><Metadata><Hdi_isfolder>true</Hdi_isfolder></Metadata></Blob>
      <Blob><Name>m/</Name></Blob>
      <BlobPrefix><Name>m/sub/</Name></BlobPrefix>
    </Blobs><NextMarker>2!x</NextMarker></EnumerationResults>"""
    found = parse_page(az_uri("az://abc/m"), "https://h", body.encode())
    assert (found.page.keys, found.page.prefixes) == (("m/a b&.bin",), ("m/sub/",))
    assert [each.identity for each in found.page.objects] == ['az:https://h 7 - "0x8D"']
    assert found.marker == "2!x"


@pytest.mark.parametrize("body", [b"<html/>", b"{}", b""])
def test_another_answer_is_no_listing(body: bytes) -> None:
    with pytest.raises(SourceError, match=r"az://abc/m: .*AZURE_STORAGE_ENDPOINT"):
        parse_page(az_uri("az://abc/m"), "https://h", body)


def test_requests_carry_signature_or_token() -> None:
    request = Request("GET", f"{HOST}/c?comp=list", "az://c")
    assert AzDialect(AzSettings(HOST, sas=SAS)).prepared(request).url == f"{request.url}&{SAS}"
    sent = AzDialect(AzSettings(HOST, bearer="t")).prepared(request)
    assert sent.url == request.url
    assert sent.headers["Authorization"] == "Bearer t"
    assert set(AzDialect(AzSettings(HOST)).prepared(request).headers) == {"x-ms-version"}


SIGNED = AzSettings(HOST, sas=SAS)
IDENTITY = AzSettings(HOST, bearer="hush")
PUBLIC = AzSettings(HOST)


@pytest.mark.parametrize(
    ("settings", "status", "code", "detail", "kind", "text"),
    [
        (SIGNED, 404, "BlobNotFound", "", SourceNotFound, "the blob's name"),
        (SIGNED, 404, "ContainerNotFound", "", SourceNotFound, "the container's name"),
        (PUBLIC, 404, "ResourceNotFound", "", SourceNotFound, "private one"),
        (SIGNED, 403, "AuthenticationFailed", "Signature did not match", SourceForbidden, "KEY"),
        (
            *(SIGNED, 403, "AuthenticationFailed"),
            *("Signature not valid in the specified time frame", CredentialsExpired, "renew"),
        ),
        (SIGNED, 403, "AuthorizationPermissionMismatch", "", SourceForbidden, "sp=r (read)"),
        (IDENTITY, 403, "AuthorizationPermissionMismatch", "", SourceForbidden, "Data Reader"),
        (
            *(IDENTITY, 401, "InvalidAuthenticationInfo"),
            *("Lifetime validation failed. The token is expired.", CredentialsExpired, "renew"),
        ),
        (
            *(IDENTITY, 401, "InvalidAuthenticationInfo"),
            *("Issuer validation failed.", SourceForbidden, "AZURE_TENANT_ID"),
        ),
        (SIGNED, 403, "AuthorizationFailure", "", SourceForbidden, "firewall"),
        (SIGNED, 403, "KeyBasedAuthenticationNotPermitted", "", SourceForbidden, "an identity"),
        (PUBLIC, 409, "PublicAccessNotPermitted", "", SourceError, "STREAMER_AZURE_ANONYMOUS"),
        (SIGNED, 409, "BlobArchived", "", SourceError, "tier"),
        (SIGNED, 412, "ConditionNotMet", "", SourceChanged, "open the checkpoint again"),
        (SIGNED, 503, "ServerBusy", "", Transient, ""),
        (SIGNED, 500, "OperationTimedOut", "", Transient, ""),
        (SIGNED, 400, "AccountBeingCreated", "", Transient, ""),
    ],
)
def test_meanings(
    settings: AzSettings, status: int, code: str, detail: str, kind: type[Exception], text: str
) -> None:
    body = (
        f"<Error><Code>{code}</Code><Message>It is so.\nRequestId:1\nTime:2</Message>"
        f"<AuthenticationErrorDetail>{detail}</AuthenticationErrorDetail></Error>"
    )
    request = Request("GET", f"{HOST}/abc/k", "az://abc/k")
    dialect = AzDialect(settings, clock=lambda: BEFORE)
    sent = dialect.prepared(request)
    answer = Answer(status, {"x-ms-request-id": "ID1"}, b"\xef\xbb\xbf" + body.encode())
    found = dialect.refusal(request, sent, answer)
    assert type(found) is kind
    told = str(found)
    assert text in told
    for expected in (f"HTTP {status} {code}", "It is so.", "x-ms-request-id ID1", HOST):
        assert expected in told
    assert "hush" not in told
    assert "\n" not in told


def test_a_refusal_without_a_body_is_told_by_its_header() -> None:
    assert "HTTP 409 BlobArchived" in str(refused_head(409, "BlobArchived", BEFORE))


def test_a_signature_whose_time_is_over_has_expired_whatever_is_said() -> None:
    assert isinstance(refused_head(403, "AuthorizationFailure", AFTER), CredentialsExpired)
    assert isinstance(refused_head(403, "AuthorizationFailure", BEFORE), SourceForbidden)


def refused_head(status: int, code: str, now: dt.datetime) -> Exception:
    request = Request("HEAD", f"{HOST}/abc/k", "az://abc/k")
    answer = Answer(status, {"x-ms-error-code": code})
    return AzDialect(SIGNED, lambda: now).refusal(request, request, answer)
