"""Access to a source: one object for each source and environment, renewed, and kept through
failures.
"""

from __future__ import annotations

import pytest

from streamer_client.connecting import source_access
from streamer_client.connecting.source_access import RETAINED, SourceAccess, SourceAccesses
from streamer_client.contract.errors import ConfigError, SourceForbidden
from streamer_client.storage.local import LocalStorage


class Caller:
    """Returns the value that the test sets, or raises it."""

    def __init__(self, *answers: dict[str, str] | Exception) -> None:
        self.answers = list(answers)

    def resolved(self) -> dict[str, str]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_files_need_nothing() -> None:
    access = SourceAccesses().of("/models/m", {"AWS_SECRET_ACCESS_KEY": "x"})
    assert access.environment() == {}
    assert isinstance(access.storage(), LocalStorage)
    assert access.renewed_storage() is None


def test_a_kind_that_nobody_reads_is_told() -> None:
    with pytest.raises(ConfigError, match="ftp"):
        SourceAccesses().of("ftp://host/m", {})


def test_one_access_to_a_source_until_the_environment_changes() -> None:
    accesses = SourceAccesses()
    first = accesses.of("/m", {"A": "1"})
    assert accesses.of("/m", {"A": "1"}) is first
    assert accesses.of("/m", {"A": "2"}) is not first
    assert accesses.of("/n", {"A": "1"}) is not first


def test_the_accesses_used_last_are_retained() -> None:
    accesses = SourceAccesses()
    first, second = accesses.of("/0", {}), accesses.of("/1", {})
    for number in range(2, RETAINED + 1):
        accesses.of("/0", {})
        accesses.of(f"/{number}", {})
    assert accesses.of("/0", {}) is first
    assert accesses.of("/1", {}) is not second


def test_credentials_that_cannot_be_renewed_now_are_used_as_they_are() -> None:
    access = SourceAccess("s3://b", Caller({"K": "1"}, SourceForbidden("no answer"), {"K": "2"}))
    assert [access.environment()["K"] for _ in range(3)] == ["1", "1", "2"]


def test_without_any_ever_the_error_passes() -> None:
    with pytest.raises(SourceForbidden, match="none"):
        SourceAccess("s3://b", Caller(SourceForbidden("none"))).environment()


def test_a_renewed_storage_only_when_something_is_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, str]] = []

    def storage_for(_uri: str, environment: dict[str, str]) -> LocalStorage:
        made.append(environment)
        return LocalStorage()

    monkeypatch.setattr(source_access, "storage_for", storage_for)
    access = SourceAccess("s3://b", Caller({"K": "1"}, {"K": "1"}, {"K": "2"}))
    access.storage()
    assert access.renewed_storage() is None
    assert access.renewed_storage() is not None
    assert made == [{"K": "1"}, {"K": "2"}]
