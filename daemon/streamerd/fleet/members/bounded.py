"""An HTTP session that bounds the size and time of answers, which etcd's client library does not.

Anybody who may write to etcd chooses what it answers, and the library reads an answer to the end,
however long it is. Used by `etcd.py`, in the thread of `book.py`.
"""

from __future__ import annotations

import contextlib
import io
import time
from typing import Any, Final

import requests
import urllib3

MOST_ANSWER_BYTES: Final = 4 << 20
"""The longest answer that is read. An answer with `MOST_MEMBERS` members, each with a long key, has
a third of this."""
_PIECE_BYTES: Final = 64 << 10


class BoundedSession(requests.Session):
    """Refuses an answer that is too long, and ends one that takes too long.

    Args:
        answer_s: the time for an answer that is read as a whole, from its head to its end.
        stream_s: the longest silence within an answer that is read while it comes.
    """

    def __init__(self, answer_s: float, stream_s: float) -> None:
        super().__init__()
        self._answer_s = answer_s
        self._stream_s = stream_s

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request as `requests.Session` does; read an answer that is not streamed here.

        Raises:
            requests.RequestException: the answer is too long, took too long, or did not come.
        """
        streamed = options.get("stream")
        if options.get("timeout") is None:
            options["timeout"] = self._answer_s, self._stream_s
        # etcd does not redirect, and `requests` would read the body of a redirect without a bound.
        options |= {"stream": True, "allow_redirects": False}
        response = super().send(request, **options)
        if not streamed:
            with contextlib.closing(response.raw):
                whole = self._whole(response)
            response.raw = io.BytesIO(whole)
        return response

    def _whole(self, response: requests.Response) -> bytes:
        until_s, whole = time.monotonic() + self._answer_s, bytearray()
        try:
            for piece in response.raw.stream(_PIECE_BYTES, decode_content=True):
                whole += piece
                if len(whole) > MOST_ANSWER_BYTES or time.monotonic() > until_s:
                    raise requests.RequestException(
                        f"an answer of more than {MOST_ANSWER_BYTES} bytes or {self._answer_s:g} s;"
                        " look at what stands under the fleet's prefix"
                    )
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from error
        return bytes(whole)
