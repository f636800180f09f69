"""Backends of a `FaultProxy`: a store in memory that speaks some S3, and another server."""

from __future__ import annotations

import hashlib
import http.client
import threading
from collections.abc import Callable, Mapping
from email.utils import formatdate
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.support.fault_proxy import Asked, Reply


class MemoryStore:
    """Objects by path, which is `/bucket/key`, or any path for a web server.

    The attributes are the respects in which servers differ.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.page_keys = 1000
        self.knows_second_version = True
        self.honours_conditions = True
        self.honours_range = True
        self.sends_etag = True
        self.listed_etag: Callable[[str, bytes], str] = lambda _path, data: etag_of(data)
        """Makes an object's ETag in a listing; if empty, the listing has none."""
        self.extra: dict[str, str] = {}
        """Further headers of each answer about an object."""
        self._changes = 0
        self._modified: dict[str, int] = {}
        self._lock = threading.Lock()

    def put(self, path: str, data: bytes) -> None:
        with self._lock:
            self._changes += 1
            self.objects[path] = data
            self._modified[path] = self._changes

    def answer(self, asked: Asked) -> Reply:
        query = parse_qs(urlsplit(asked.target).query, keep_blank_values=True)
        if "list-type" in query:
            bucket = unquote(asked.path).strip("/")
            return self._listing(bucket, {name: values[0] for name, values in query.items()})
        path = unquote(asked.path)
        data = self.objects.get(path)
        if data is None:
            return error_reply(404, "NoSuchKey", "The specified key does not exist.")
        return self._object(asked, path, data)

    def _object(self, asked: Asked, path: str, data: bytes) -> Reply:
        headers = {"Last-Modified": formatdate(self._modified[path] * 10, usegmt=True)}
        if self.sends_etag:
            headers["ETag"] = etag_of(data)
        headers |= self.extra
        if self.honours_conditions and _refused(asked.headers, headers):
            return error_reply(412, "PreconditionFailed", "At least one did not hold.")
        if asked.range is None or not self.honours_range:
            return Reply(200, {"Accept-Ranges": "bytes", **headers}, data)
        start, stop = asked.range
        if start >= len(data):
            return error_reply(416, "InvalidRange", "Not satisfiable.", len(data))
        part = data[start:stop]
        covered = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        return Reply(206, {**headers, "Content-Range": covered}, part)

    def _listing(self, bucket: str, query: Mapping[str, str]) -> Reply:
        start = f"/{bucket}/"
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        # The token is the last entry of the page before, so that any page size works.
        after = query.get("continuation-token") or query.get("marker", "")
        entries = sorted(
            {
                _entry(path[len(start) :], prefix, delimiter)
                for path in self.objects
                if path.startswith(start + prefix)
            }
        )
        left = [entry for entry in entries if entry > after]
        page, more = left[: self.page_keys], len(left) > self.page_keys
        text = "".join(self._entry(start, entry, delimiter) for entry in page)
        text += f"<IsTruncated>{str(more).lower()}</IsTruncated><EncodingType>url</EncodingType>"
        if more and self.knows_second_version:
            text += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
        body = f'<?xml version="1.0"?><ListBucketResult xmlns="urn:s3">{text}</ListBucketResult>'
        return Reply(200, {"Content-Type": "application/xml"}, body.encode())

    def _entry(self, start: str, entry: str, delimiter: str) -> str:
        if delimiter and entry.endswith(delimiter):
            return f"<CommonPrefixes><Prefix>{quote(entry)}</Prefix></CommonPrefixes>"
        data = self.objects[start + entry]
        etag = self.listed_etag(start + entry, data) if self.sends_etag else ""
        told = f"<ETag>{escape(etag)}</ETag><Size>{len(data)}</Size>"
        return f"<Contents><Key>{quote(entry)}</Key>{told}</Contents>"


class Forward:
    """Forwards requests, and returns another server's answers.

    Args:
        url: `http://host:port` of the other server.
    """

    def __init__(self, url: str) -> None:
        self._authority = urlsplit(url).netloc

    def answer(self, asked: Asked) -> Reply:
        connection = http.client.HTTPConnection(self._authority, timeout=30)
        try:
            connection.request(asked.method, asked.target, headers=dict(asked.headers))
            response = connection.getresponse()
            body = response.read()
            headers = {name.title(): value for name, value in response.getheaders()}
        finally:
            connection.close()
        for name in ("Connection", "Server", "Date", "Transfer-Encoding"):
            headers.pop(name, None)
        if asked.method != "HEAD":
            headers.pop("Content-Length", None)
        return Reply(response.status, headers, body)


def etag_of(data: bytes) -> str:
    """The ETag that S3 gives to an object that was uploaded whole."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def error_reply(status: int, code: str, message: str, size_bytes: int | None = None) -> Reply:
    """A refusal in S3's words."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    headers = {"x-amz-request-id": "REQUEST1", "Content-Type": "application/xml"}
    if size_bytes is not None:
        headers["Content-Range"] = f"bytes */{size_bytes}"
    return Reply(status, headers, body)


def _refused(asked: Mapping[str, str], headers: Mapping[str, str]) -> bool:
    wanted = asked.get("if-match")
    if wanted is not None:
        return wanted != headers.get("ETag")
    since = asked.get("if-unmodified-since")
    return since is not None and since != headers["Last-Modified"]


def _entry(key: str, prefix: str, delimiter: str) -> str:
    """The key, or the part of it that stands for all keys with that beginning."""
    name, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
    return f"{prefix}{name}{delimiter}" if found else key
