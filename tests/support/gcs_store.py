"""A store in memory that speaks Cloud Storage's JSON API, behind a `FaultProxy`.

It has the features that the emulator from PyPI lacks: generations with content, preconditions,
pages, tokens, projects that are billed, and refusals in the API's own words.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.fault_proxy import Asked, Reply


@dataclass(frozen=True, slots=True)
class Kept:
    data: bytes
    generation: int
    encoding: str = ""


class GcsStore:
    """Objects by bucket and name; the attributes say which tokens and projects it requires."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Kept] = {}
        self.buckets = {"models"}
        self.page_keys = 1000
        self.accepts = ""
        """The required token; if empty, everybody may read."""
        self.reads_only = False
        """Whether the token allows reading only, and no listing."""
        self.billed_project = ""
        """The project that must be billed; if empty, the bucket's owner pays."""
        self.honours_conditions = True
        self._changes = 1_700_000_000_000_000
        self._lock = threading.Lock()

    def put(self, bucket: str, name: str, data: bytes, encoding: str = "") -> None:
        with self._lock:
            self._changes += 1
            self.objects[bucket, name] = Kept(data, self._changes, encoding)

    def answer(self, asked: Asked) -> Reply:
        path = urlsplit(asked.target).path.removeprefix("/storage/v1/b/")
        query = {name: values[0] for name, values in parse_qs(urlsplit(asked.target).query).items()}
        bucket, _, rest = path.partition("/o")
        refused = self._refused(asked.headers, bucket, listing=not rest)
        if refused:
            return refused
        if not rest:
            return self._listing(bucket, query)
        kept = self.objects.get((bucket, unquote(rest[1:])))
        if kept is None:
            name = unquote(rest[1:])
            return refusal(404, "notFound", f"No such object: {bucket}/{name}")
        return self._content(asked, kept, query) if query.get("alt") == "media" else metadata(kept)

    def _refused(self, headers: Mapping[str, str], bucket: str, *, listing: bool) -> Reply | None:
        sent = headers.get("authorization", "")
        if self.accepts and not sent:
            text = "Anonymous caller does not have storage.objects.get access to the object."
            return refusal(401, "required", text)
        if self.accepts and sent != f"Bearer {self.accepts}":
            return refusal(401, "authError", "Invalid Credentials")
        if listing and self.reads_only:
            return refusal(403, "forbidden", "does not have storage.objects.list access")
        if bucket not in self.buckets:
            return refusal(404, "notFound", "The specified bucket does not exist.")
        if self.billed_project and headers.get("x-goog-user-project") != self.billed_project:
            text = "Bucket is a requester pays bucket but no user project provided."
            return refusal(400, "required", text)
        return None

    def _content(self, asked: Asked, kept: Kept, query: Mapping[str, str]) -> Reply:
        wanted = query.get("ifGenerationMatch", str(kept.generation))
        if self.honours_conditions and wanted != str(kept.generation):
            return Reply(412, {"Content-Type": "text/plain"}, b"Precondition Failed")
        headers = {"x-goog-generation": str(kept.generation), "ETag": f"C{kept.generation}="}
        if asked.range is None:
            return Reply(200, headers, kept.data)
        start, stop = asked.range
        part = kept.data[start:stop]
        if not part:
            return Reply(416, headers)
        covered = f"bytes {start}-{start + len(part) - 1}/{len(kept.data)}"
        return Reply(206, {**headers, "Content-Range": covered}, part)

    def _listing(self, bucket: str, query: Mapping[str, str]) -> Reply:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        entries = sorted(
            {
                _entry(name, prefix, delimiter)
                for kept_in, name in self.objects
                if kept_in == bucket and name.startswith(prefix)
            }
        )
        left = [entry for entry in entries if entry > query.get("pageToken", "")]
        page = left[: self.page_keys]
        body: dict[str, object] = {
            "items": [{"name": entry} for entry in page if not _is_prefix(entry, delimiter)],
            "prefixes": [entry for entry in page if _is_prefix(entry, delimiter)],
        }
        if len(left) > len(page):
            body["nextPageToken"] = page[-1]
        return Reply(200, {"Content-Type": "application/json"}, json.dumps(body).encode())


def metadata(kept: Kept) -> Reply:
    body = {"size": str(len(kept.data)), "generation": str(kept.generation)}
    if kept.encoding:
        body["contentEncoding"] = kept.encoding
    return Reply(200, {"Content-Type": "application/json"}, json.dumps(body).encode())


def refusal(status: int, reason: str, message: str) -> Reply:
    """A refusal in the words of the JSON API."""
    errors = [{"reason": reason, "message": message, "domain": "global"}]
    body = {"error": {"code": status, "message": message, "errors": errors}}
    headers = {"Content-Type": "application/json", "X-GUploader-UploadID": "UPLOAD1"}
    return Reply(status, headers, json.dumps(body).encode())


def _entry(name: str, prefix: str, delimiter: str) -> str:
    """The name, or the part of it that stands for all names with that beginning."""
    if not delimiter:
        return name
    head, found, tail = name[len(prefix) :].partition(delimiter)
    return f"{prefix}{head}{delimiter}" if found and tail else name


def _is_prefix(entry: str, delimiter: str) -> bool:
    return bool(delimiter) and entry.endswith(delimiter)
