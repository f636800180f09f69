"""Environments of loads are kept as long as the load, compared as a whole, and never shown."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from tests.support.in_loop import in_loop

from streamer_client.storage.contract import StoredShard
from streamer_client.storage.remembered import Remembered
from streamerd.memory.room import MemoryRoom
from streamerd.reading.backing import Backing
from streamerd.reading.checksums import Checksums
from streamerd.reading.fetches import Fetches
from streamerd.reading.sources import Sources
from streamerd.reading.totals import ReadTotals
from streamerd.settings.config import load_settings
from streamerd.state.commands import FetchBlock
from streamerd.state.events import AnyEvent, LoadKey, ShardKey
from streamerd.workers import jobs
from streamerd.workers.in_daemon.environments import Environments

A, B = LoadKey("a", 1), LoadKey("b", 1)
KEY = ShardKey("s3://b/k", "etag")
BLOCK = 64 << 10


def test_each_load_reads_with_its_own() -> None:
    environments = Environments()
    environments.put(A, {"KEY": "1"})
    assert environments.of(A) == {"KEY": "1"}
    assert environments.of(B) == {}
    assert A in environments
    assert B not in environments


def test_who_lends_the_same_is_told_together_until_renewed() -> None:
    environments = Environments()
    environments.put(A, {"KEY": "1"})
    environments.put(B, {"KEY": "1"})
    assert environments.loads_with({"KEY": "1"}) == (A, B)
    assert environments.renew(A, {"KEY": "2"})
    assert not environments.renew(A, {"KEY": "2"})
    assert environments.loads_with({"KEY": "1"}) == (B,)


def test_an_ended_loads_secrets_are_forgotten() -> None:
    environments = Environments()
    environments.put(A, {"KEY": "secret"})
    environments.put(B, {})
    environments.keep_only({B})
    assert len(environments) == 1
    assert environments.of(A) == {}
    assert environments.digest(A) == ""


def test_an_environment_is_gone_when_its_last_load_has_left_it() -> None:
    environments = Environments()
    first, newer = {"KEY": "1"}, {"KEY": "2"}
    for load in (A, B):
        environments.put(load, first)
    assert environments.digest(A) == environments.digest(B) == jobs.digest_of(first)
    environments.renew(A, newer)
    assert environments.take_gone() == [], "another load has it still"
    environments.keep_only({A})
    assert environments.take_gone() == [jobs.digest_of(first)]
    assert environments.take_gone() == [], "each is told once"
    environments.renew(A, newer)
    assert environments.take_gone() == [], "the same once more"
    environments.keep_only(())
    assert environments.take_gone() == [jobs.digest_of(newer)]


@in_loop
async def test_a_read_that_begins_after_its_load_ended_has_the_loads_credentials() -> None:
    environments, workers = Environments(), Workers()
    fetches = reading(workers, environments)
    environments.put(A, {"KEY": "secret"})
    sent = environments.sent(A)
    environments.keep_only(())
    fetches.begin(FetchBlock(KEY, 0, A), sent, backed=True)
    ((job, _),) = workers.asked
    assert (job.environment, job.digest) == ({"KEY": "secret"}, jobs.digest_of(job.environment))
    assert job.backed


@in_loop
async def test_a_read_that_ends_after_its_load_has_its_environment_forgotten_again() -> None:
    environments, workers = Environments(), Workers()
    fetches = reading(workers, environments)
    environments.put(A, {"KEY": "secret"})
    fetches.begin(FetchBlock(KEY, 0, A), environments.sent(A), backed=False)
    environments.keep_only(())
    assert len(environments.take_gone()) == 1
    (job, on_answer) = workers.asked.pop()
    on_answer(jobs.Fetched(1, 7, BLOCK))
    assert environments.take_gone() == [job.digest], "the worker was sent it with this read"


def test_nothing_is_shown() -> None:
    environments = Environments()
    environments.put(A, {"KEY": "secret"})
    assert "secret" not in repr(environments)


class Secret(str):
    """A text that can be found in memory; plain texts are in no list of the garbage collector."""

    __slots__ = ("__weakref__",)


class Workers:
    """Keeps the jobs that it gets; the test answers them."""

    slots = 4

    def __init__(self) -> None:
        self.asked: list[tuple[jobs.Fetch, Any]] = []

    def next_job(self) -> int:
        return 1

    def submit(self, job: jobs.Fetch, on_answer: Any, *, limit_s: float | None = None) -> None:
        assert limit_s is None, "a store has limits of its own"
        self.asked.append((job, on_answer))


def reading(workers: Workers, environments: Environments) -> Fetches:
    """Fetches of one shard of four blocks from a store."""
    settings, _ = load_settings(
        {"block_size": BLOCK, "memory_limit": 9 * BLOCK}, {}, None, MemoryRoom(None, None, None)
    )
    backing = Backing(StoredShard(KEY.uri, 4 * BLOCK, "etag"), Checksums(4), "/slab", 0)
    posted: list[AnyEvent] = []
    return Fetches(
        settings,
        workers,  # type: ignore[arg-type]
        {KEY: backing},
        environments,
        Sources(),
        posted.append,
        lambda *_block: False,
        ReadTotals(),
        Remembered(1),
    )


@pytest.mark.parametrize(
    "answer",
    [
        jobs.Fetched(1, 7, BLOCK),
        jobs.JobFailed(1, "credentials-expired", "expired"),
        jobs.JobFailed(1, "source", "broken"),
        None,
    ],
    ids=["fetched", "expired", "failed", "worker died"],
)
@in_loop
async def test_no_object_holds_a_secret_once_its_load_and_reads_have_ended(
    answer: jobs.Answer | None,
) -> None:
    secret = Secret("a-secret-key")
    seen = weakref.ref(secret)
    environments, workers = Environments(), Workers()
    fetches = reading(workers, environments)
    environments.put(A, {"AWS_SECRET_ACCESS_KEY": secret})
    environments.put(B, {"AWS_SECRET_ACCESS_KEY": "another"})
    del secret
    fetches.begin(FetchBlock(KEY, 0, A), environments.sent(A), backed=False)
    fetches.begin(FetchBlock(KEY, 1, A), environments.sent(A), backed=False)
    assert seen() is not None
    environments.keep_only({B})
    while workers.asked:
        _, on_answer = workers.asked.pop()
        on_answer(answer)
        del on_answer, _
    gc.collect()
    assert seen() is None


def test_what_was_renewed_is_dropped_at_once() -> None:
    secret = Secret("a-secret-key")
    seen = weakref.ref(secret)
    environments = Environments()
    environments.put(A, {"KEY": secret})
    del secret
    environments.renew(A, {"KEY": "newer"})
    gc.collect()
    assert seen() is None
