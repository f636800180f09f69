"""The carrier's answers where storage fails: typed, counted, and without a secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from streamer_client.contract.errors import CredentialsExpired
from streamer_client.storage.contract import Reader, StoredShard
from streamerd.workers import carrier as carrier_module
from streamerd.workers import jobs
from streamerd.workers.carrier import Carrier

ENVIRONMENT = {"AWS_SECRET_ACCESS_KEY": "a-secret-key", "AWS_REGION": "eu-west-1"}


class Failing:
    """A storage whose errors repeat what it was given."""

    error: type[Exception] = RuntimeError

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._text = f"bad: {dict(environment)}"

    def list_shards(
        self, source: str, pattern: str | None, files: Sequence[str] | None
    ) -> tuple[StoredShard, ...]:
        raise self.error(self._text)

    def list_all(self, source: str, take: object = None) -> tuple[StoredShard, ...]:
        raise self.error(self._text)

    def open(self, shard: StoredShard) -> Reader:
        raise self.error(self._text)


@pytest.mark.parametrize(
    ("error", "code"),
    [(RuntimeError, "internal"), (CredentialsExpired, "credentials-expired")],
)
def test_no_secret_leaves_a_failing_job(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
    code: str,
) -> None:
    monkeypatch.setattr(Failing, "error", error)
    monkeypatch.setattr(carrier_module, "storage_for", lambda _uri, env: Failing(env))
    made = Carrier()
    shard = StoredShard("s3://b/k", 10, "etag")
    for job in (
        jobs.Resolve(1, "s3://b", None, None, ENVIRONMENT),
        jobs.Reread(2, shard, ENVIRONMENT, 0, 10),
    ):
        answer = made.carry_out(job)
        assert isinstance(answer, jobs.Failed)
        assert answer.code == code
        assert "eu-west-1" in answer.message
        assert "a-secret-key" not in answer.message
    assert "a-secret-key" not in caplog.text
    assert ("Traceback" in caplog.text) == (error is RuntimeError)
    made.close()


def test_each_kind_of_waiting_has_threads_of_its_own() -> None:
    remote, local = StoredShard("s3://b/k", 10, "e"), StoredShard("/m/a", 10, "e")
    lanes = {
        jobs.lane_of(jobs.Fetch(1, "/slab", remote, {}, 0, 10)): "store",
        jobs.lane_of(jobs.Fetch(1, "/slab", local, {}, 0, 10)): "disk",
        jobs.lane_of(jobs.Resolve(1, "s3://b", None, None, {})): "aside",
    }
    assert {lane.value: name for lane, name in lanes.items()} == {
        "store": "store",
        "disk": "disk",
        "aside": "aside",
    }
