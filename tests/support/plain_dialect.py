"""The simplest dialect: requests are sent as they are, and statuses have HTTP's meaning."""

from __future__ import annotations

from streamer_client.storage.http.dialect import Answer, Request, Verdict
from streamer_client.storage.http.faults import ErrorDetail, refusal


class PlainDialect:
    def prepared(self, request: Request) -> Request:
        return request

    def refusal(self, request: Request, sent: Request, answer: Answer) -> Verdict:
        del request
        return refusal(sent, answer, ErrorDetail())
