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
        page(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>t+/=</NextContinuationToken>"
            "<Contents><Key>m/</Key><Size>0</Size></Contents>"
            "<Contents><Key>m/a b+c%20</Key><ETag>&quot;x&quot;</ETag></Contents>"
            "<CommonPrefixes><Prefix>m/sub/</Prefix></CommonPrefixes>"
        ),
    )
    assert found.page.keys == ("m/a b+c%20",)
    assert found.page.prefixes == ("m/sub/",)
    assert (found.token, found.truncated) == ("t+/=", True)


def test_names_that_xml_could_not_carry() -> None:
    found = parse_page(
        URI,
        page(
            "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
            "<Contents><Key>m%2Fa+b%2Bc%2520%01</Key></Contents>"
        ),
    )
    assert found.page.keys == ("m/a b+c%20\x01",)
    assert not found.truncated


@pytest.mark.parametrize("body", [b"", b"<html>console</html>", b"<Error/>", b"{}"])
def test_what_is_no_listing(body: bytes) -> None:
    with pytest.raises(SourceError, match="is no listing") as caught:
        parse_page(URI, body)
    assert str(caught.value).startswith("s3://bucket/m: ")
    assert "no console or web page" in str(caught.value)
