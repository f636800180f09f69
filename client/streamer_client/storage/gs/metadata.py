"""The JSON in which Google Cloud Storage answers, as typed values. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from streamer_client.contract.errors import SourceError
from streamer_client.storage.http.dialect import Answer
from streamer_client.storage.http.faults import ErrorDetail

_NUMBER: Final = re.compile(r"[0-9]{1,19}")

METADATA_FIELDS = "size,generation,contentEncoding"
LISTING_FIELDS = "items(name,size,generation,contentEncoding),prefixes,nextPageToken"


class ObjectMetadata(msgspec.Struct, rename="camel", frozen=True):
    """The metadata that prove an object's content: each content has its own generation."""

    size: str
    """The size in decimal digits, as the API writes 64-bit numbers as strings."""
    generation: str
    content_encoding: str = ""

    @property
    def size_bytes(self) -> int:
        return int(self.size)


class Item(msgspec.Struct, rename="camel", frozen=True):
    """One object of a listing; servers that imitate the API may leave out all but the name."""

    name: str
    size: str = ""
    generation: str = ""
    content_encoding: str = ""

    @property
    def metadata(self) -> ObjectMetadata | None:
        """The object's metadata as far as the listing has them; None if it lacks a part."""
        numbers = (self.size, self.generation)
        if not all(_NUMBER.fullmatch(number) for number in numbers) or int(self.generation) == 0:
            return None
        return ObjectMetadata(*numbers, self.content_encoding)


class Listing(msgspec.Struct, rename="camel", frozen=True):
    """One page of a listing."""

    items: list[Item] = msgspec.field(default_factory=list)
    prefixes: list[str] = msgspec.field(default_factory=list)
    next_page_token: str = ""


class _Reason(msgspec.Struct):
    reason: str = ""


class _Error(msgspec.Struct):
    message: str = ""
    errors: list[_Reason] = msgspec.field(default_factory=list)


class _Refusal(msgspec.Struct):
    error: _Error


def object_metadata(about: str, body: bytes) -> ObjectMetadata:
    """Parse the metadata of one object.

    Raises:
        SourceError: the answer is something else.
    """
    try:
        found = msgspec.json.decode(body, type=ObjectMetadata)
        if int(found.size) < 0 or int(found.generation) <= 0:
            raise ValueError("size is negative, or generation is not positive")
    except (msgspec.DecodeError, ValueError) as error:
        raise SourceError(_not_json_api(about, error)) from error
    return found


def listing(about: str, body: bytes) -> Listing:
    """Parse one page of a listing.

    Raises:
        SourceError: the answer is something else.
    """
    try:
        return msgspec.json.decode(body, type=Listing)
    except msgspec.DecodeError as error:
        raise SourceError(_not_json_api(about, error)) from error


def told_by(answer: Answer) -> ErrorDetail:
    """The store's words in a refusal: mostly JSON, or plain text after a request for content."""
    try:
        error = msgspec.json.decode(answer.body, type=_Refusal).error
    except msgspec.DecodeError:
        plain = answer.headers.get("content-type", "").startswith("text/plain")
        return ErrorDetail("", answer.body.decode(errors="replace").strip() if plain else "")
    return ErrorDetail(error.errors[0].reason if error.errors else "", error.message)


def _not_json_api(about: str, error: Exception) -> str:
    return (
        f"{about}: the answer is not one of Cloud Storage's JSON API: {error}; check that "
        "STREAMER_GCS_ENDPOINT is the address of that API, and not of a console or web page"
    )
