"""Pages of a listing."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import SourceError
from streamer_client.storage.s3.listing import parse_page
from streamer_client.storage.s3.uri import s3_uri

URI = s3_uri("s3://bucket/m")


def page(inner: str) -> bytes:
    return f'<ListBucketResult xmlns="http://s3/">{inner}</ListBucketResult>'.encode()


def test_keys_prefixes_and_where_it_goes_on() -> None:
    found = parse_page(
        URI,
        "aws",
        page(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>t+/=</NextContinuationToken>"
            "<Contents><Key>m/</Key><Size>0</Size></Contents>"
            "<Contents><Key>m/a b+c%20</Key><ETag>&quot;x&quot;</ETag></Contents>"
            "<CommonPrefixes><Prefix>m/sub/</Prefix></CommonPrefixes>"
        ),
    )
    assert found.page.keys == ("m/a b+c%20",)
    assert found.page.prefixes == ("m/sub/",)
    assert found.keys == ("m/", "m/a b+c%20")
    assert (found.token, found.truncated) == ("t+/=", True)


def test_names_that_xml_could_not_carry() -> None:
    found = parse_page(
        URI,
        "aws",
        page(
            "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
            "<Contents><Key>m%2Fa+b%2Bc%2520%01</Key></Contents>"
        ),
    )
    assert found.page.keys == ("m/a b+c%20\x01",)
    assert not found.truncated


@pytest.mark.parametrize(
    ("inner", "told"),
    [
        ("<ETag>&quot;x&quot;</ETag><Size>7</Size>", (7, 's3:aws 7 - "x"')),
        ("<ETag>&quot;d41d8-3&quot;</ETag><Size>0</Size>", (0, 's3:aws 0 - "d41d8-3"')),
        ("<ETag>x</ETag><Size>7</Size>", (7, 's3:aws 7 - "x"')),
        ("<ETag>W/&quot;x&quot;</ETag><Size>7</Size>", (0, "")),
        ("<ETag>&quot;x&quot;</ETag>", (0, "")),
        ("<ETag>&quot;x&quot;</ETag><Size>-7</Size>", (0, "")),
        ("<ETag>&quot;x&quot;</ETag><Size>\u0667</Size>", (0, "")),
        ("<ETag>&quot;x&quot;y&quot;</ETag><Size>7</Size>", (0, "")),
        ("<ETag>x y</ETag><Size>7</Size>", (0, "")),
        ("<ETag></ETag><Size>7</Size>", (0, "")),
        ("<Size>7</Size>", (0, "")),
    ],
)
def test_what_an_entry_proves(inner: str, told: tuple[int, str]) -> None:
    found = parse_page(URI, "aws", page(f"<Contents><Key>m/a</Key>{inner}</Contents>"))
    (listed,) = found.page.objects
    assert (listed.key, listed.size_bytes, listed.identity) == ("m/a", *told)


@pytest.mark.parametrize("body", [b"", b"<html>console</html>", b"<Error/>", b"{}"])
def test_what_is_no_listing(body: bytes) -> None:
    with pytest.raises(SourceError, match="is no listing") as caught:
        parse_page(URI, "aws", body)
    assert str(caught.value).startswith("s3://bucket/m: ")
    assert "no console or web page" in str(caught.value)
