"""The XML in which Azure lists blobs, as typed values. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streamer_client.contract.errors import SourceError
from streamer_client.storage.http.proof import listed_proof
from streamer_client.storage.object_uri import ObjectUri
from streamer_client.storage.prefixes import ListedObject, Page
from streamer_client.storage.xml import Element, NotXml, parse_xml

KIND: Final = "az"


@dataclass(frozen=True, slots=True)
class MarkedPage:
    """One page, and where the next one begins."""

    page: Page
    marker: str
    """The position of the next page; empty after the last page."""


def parse_page(uri: ObjectUri, endpoint: str, body: bytes) -> MarkedPage:
    """Parse one page of a listing with metadata.

    Raises:
        SourceError: the answer is no listing.
    """
    try:
        root = parse_xml(body)
    except NotXml as error:
        raise _not_a_listing(uri, str(error)) from error
    if root.name != "EnumerationResults":
        raise _not_a_listing(uri, f"it is a <{root.name}>")
    found = next(root.all("Blobs"), Element("Blobs"))
    return MarkedPage(
        Page(
            tuple(_object(blob, endpoint) for blob in found.all("Blob") if not _is_directory(blob)),
            tuple(prefix.value("Name") for prefix in found.all("BlobPrefix")),
        ),
        root.value("NextMarker"),
    )


def _object(blob: Element, endpoint: str) -> ListedObject:
    told = next(blob.all("Properties"), Element("Properties"))
    proof = listed_proof(told.value("Content-Length"), told.value("Etag"))
    if proof is None:
        return ListedObject(blob.value("Name"))
    return ListedObject(blob.value("Name"), proof.size_bytes, proof.identity(KIND, endpoint))


def _is_directory(blob: Element) -> bool:
    """Whether a blob stands for a directory, as in accounts with a hierarchical namespace."""
    if blob.value("Name").endswith("/"):
        return True
    metadata = next(blob.all("Metadata"), Element("Metadata"))
    # The service sometimes capitalises the names of metadata.
    flags = (field.text for field in metadata.children if field.name.lower() == "hdi_isfolder")
    return "true" in flags


def _not_a_listing(uri: ObjectUri, why: str) -> SourceError:
    return SourceError(
        f"{uri}: the answer to List Blobs is no listing: {why}; check that "
        "AZURE_STORAGE_ENDPOINT is the account's blob endpoint (https://account.blob...)"
    )
