"""The meaning of HTTP statuses."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotFound,
)
from streamer_client.storage.http.dialect import Answer, Request
from streamer_client.storage.http.faults import ErrorDetail, refusal, retry_after_s
from streamer_client.storage.http.retry import Transient

REQUEST = Request("GET", "https://u:hush@store:9000/b/k?sig=hush", "s3://b/k")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, Transient) for status in (408, 425, 429, 500, 502, 503, 504, 520, 524)),
        *((status, SourceForbidden) for status in (401, 403, 407)),
        *((status, SourceNotFound) for status in (404, 410)),
        *((status, SourceChanged) for status in (412, 416)),
        *((status, SourceError) for status in (300, 304, 400, 405, 409, 418, 501, 505)),
    ],
)
def test_statuses(status: int, kind: type[Exception]) -> None:
    headers = {"x-amz-request-id": "ID1", "x-amz-id-2": "ID2", "x-ms-request-id": "ID3"}
    found = refusal(
        REQUEST, Answer(status, headers), ErrorDetail("ItsCode", "https://h/?sig=hush it is")
    )
    assert type(found) is kind
    text = str(found)
    for part in (f"HTTP {status} ItsCode", '"https://h/?sig=*** it is"', "https://store:9000"):
        assert part in text
    for part in ("x-amz-request-id ID1", "x-amz-id-2 ID2", "x-ms-request-id ID3"):
        assert part in text
    assert "hush" not in text
    if not isinstance(found, Transient):
        assert text.startswith("s3://b/k: ")


def test_remedies_stand_at_the_end() -> None:
    given = {"forbidden": "ask the owner", "missing": "look elsewhere", "other": "call someone"}
    for status, remedy in ((403, "ask the owner"), (404, "look elsewhere"), (400, "call someone")):
        found = refusal(REQUEST, Answer(status, {}), ErrorDetail(), **given)
        assert str(found).endswith(f"; {remedy}")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "-1"}, 0.0),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            30.0,
        ),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_s(headers) == seconds
    found = refusal(REQUEST, Answer(503, headers), ErrorDetail())
    assert isinstance(found, Transient)
    assert found.after_s == seconds
