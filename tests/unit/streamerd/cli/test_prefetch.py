"""The progress of a prefetch, read from a status."""

from typing import Any

from tests.support.sample_status import empty_body, id_of, shard

from streamer_client.connecting.requests import Prefetching
from streamer_client.contract.status import parse_status
from streamerd.cli.prefetch import PrefetchProgress, progress_of

PREFETCHING = Prefetching((id_of("/m/a"), id_of("/m/b")), total_bytes=200)


def _progress(*shards: Any) -> PrefetchProgress:
    body = empty_body() | {"sources": [{"uri": "/m", "shards": list(shards)}]}
    return progress_of(parse_status(body), PREFETCHING)


def test_it_runs_while_a_shard_is_on_its_way() -> None:
    assert _progress(
        shard("/m/a", 100, 100, "resident"), shard("/m/b", 100, 30, "streaming")
    ) == PrefetchProgress(130, (), finished=False)


def test_it_is_done_when_all_are_resident() -> None:
    done = _progress(shard("/m/a", 100, 100, "resident"), shard("/m/b", 100, 100, "resident"))
    assert done == PrefetchProgress(200, (), finished=True)


def test_other_shards_do_not_count() -> None:
    other = shard("/m/c", 100, 50, "streaming")
    done = _progress(
        shard("/m/a", 100, 100, "resident"), shard("/m/b", 100, 100, "resident"), other
    )
    assert done == PrefetchProgress(200, (), finished=True)


def test_what_was_evicted_again_is_not_waited_for() -> None:
    assert _progress(shard("/m/b", 100, 100, "resident")).finished


def test_a_prefetch_of_a_part_ends_with_that_part() -> None:
    part = Prefetching((id_of("/m/a"), id_of("/m/b")), total_bytes=120)
    body = empty_body()
    shards = [shard("/m/a", 100, 100, "resident"), shard("/m/b", 100, 20, "streaming")]
    body["sources"] = [{"uri": "/m", "shards": shards}]
    assert progress_of(parse_status(body), part).finished


def test_failures_are_told_with_their_shard() -> None:
    failed = _progress(
        shard("/m/a", 100, 10, "failed", error="gone"), shard("/m/b", 100, 10, "streaming")
    )
    assert failed.failures == ("/m/a: gone",)
