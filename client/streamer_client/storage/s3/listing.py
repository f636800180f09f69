"""Lists the objects under a prefix, page by page (ListObjectsV2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_plus

from streamer_client.contract.errors import SourceError
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.engine import HttpEngine
from streamer_client.storage.http.proof import listed_proof
from streamer_client.storage.object_uri import ObjectUri
from streamer_client.storage.prefixes import ListedObject, Page
from streamer_client.storage.s3.uri import request_url
from streamer_client.storage.xml import Element, NotXml, parse_xml

KIND: Final = "s3"

PAGE_KEYS: Final = 1000


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of a listing, and the token that asks for the next one."""

    page: Page
    keys: tuple[str, ...]
    """All keys, including those of directory markers."""
    token: str
    """The token for the next page; empty after the last one, or if the store gives none."""
    truncated: bool


def list_keys(engine: HttpEngine, uri: ObjectUri, endpoint: str, *, deep: bool) -> Iterator[Page]:
    """The objects under a prefix, without directory markers.

    Args:
        engine: sends the requests.
        uri: a bucket, or a prefix without or with its slash.
        endpoint: the store's endpoint, as identities have it.
        deep: whether to list everything, not only objects directly under the prefix.

    Raises:
        SourceForbidden: the credentials do not allow listing.
        BucketNotFound: there is no such bucket.
        SourceError: the answer is no listing.
    """
    token = after = ""
    while True:
        query = _query(uri.prefix, deep=deep, token=token, after=after)
        request = Request("GET", request_url(uri.named(""), query), str(uri))
        found = parse_page(uri, endpoint, engine.ask_listing(request))
        yield found.page
        last = max((*found.keys, *found.page.prefixes), default="")
        if not found.truncated:
            return
        if not found.token and last <= after:
            raise SourceError(
                f"{uri}: the store says that its listing goes on, but not where; name the files "
                "instead"
            )
        token, after = found.token, last


def parse_page(uri: ObjectUri, endpoint: str, body: bytes) -> Listed:
    """Parse one page of a listing.

    Raises:
        SourceError: the answer is no listing.
    """
    try:
        root = parse_xml(body)
    except NotXml as error:
        raise SourceError(_not_a_listing(uri, str(error))) from error
    if root.name != "ListBucketResult":
        raise SourceError(_not_a_listing(uri, f"it is a <{root.name}>"))
    encoded = root.value("EncodingType") == "url"

    def name(element: Element, field: str) -> str:
        text = element.value(field)
        return unquote_plus(text) if encoded else text

    found = [(name(entry, "Key"), entry) for entry in root.all("Contents")]
    return Listed(
        Page(
            tuple(_object(key, entry, endpoint) for key, entry in found if not key.endswith("/")),
            tuple(name(entry, "Prefix") for entry in root.all("CommonPrefixes")),
        ),
        tuple(key for key, _ in found),
        root.value("NextContinuationToken"),
        root.value("IsTruncated") == "true",
    )


def _object(key: str, entry: Element, endpoint: str) -> ListedObject:
    proof = listed_proof(entry.value("Size"), entry.value("ETag"))
    if proof is None:
        return ListedObject(key)
    return ListedObject(key, proof.size_bytes, proof.identity(KIND, endpoint))


def _query(prefix: str, *, deep: bool, token: str, after: str) -> str:
    """The query of one page.

    A store that knows only the first version of ListObjects ignores `list-type` and gives no token.
    Such a store continues from `marker`, as one of the second version would from `start-after`.
    """
    fields = {"list-type": "2", "encoding-type": "url", "max-keys": str(PAGE_KEYS)}
    if prefix:
        fields["prefix"] = prefix
    if not deep:
        fields["delimiter"] = "/"
    if token:
        fields["continuation-token"] = token
    elif after:
        fields["start-after"] = fields["marker"] = after
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(fields.items()))


def _not_a_listing(uri: ObjectUri, why: str) -> str:
    return (
        f"{uri}: the answer to ListObjectsV2 is no listing: {why}; check that the endpoint is the "
        "store's S3 interface, and no console or web page"
    )
