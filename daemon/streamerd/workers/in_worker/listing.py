"""Asks stores which objects a source has, and whether credentials may read them.

Runs in the threads of a fetch worker. A local path is refused, since a worker has other rights than
the client that names the path.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.prefixes import PrefixStorage
from streamer_client.storage.registry import storage_for
from streamer_client.storage.remembered import LISTINGS
from streamerd.workers.jobs import LookAt, Resolve, Resolved, is_local


def resolve(job: Resolve) -> Resolved:
    """The objects under a source.

    Raises:
        StreamerError: the source is a path, or the store refuses.
    """
    if is_local(job):
        raise StreamerError(
            f"{job.source}: is a path, which only the client that names it may open; it passes "
            "descriptors"
        )
    for place, is_right in job.listings:
        LISTINGS.learn(place, is_right)
    storage = storage_for(job.source, job.environment)
    shards = storage.list_shards(job.source, job.pattern, job.files)
    return Resolved(job.job, shards, _learned(dict(job.listings), dict(LISTINGS.items())))


def look_at(job: LookAt) -> Resolved:
    """Look at objects with one request each, with the job's own credentials.

    Raises:
        StreamerError: the store refuses, or sources of this kind cannot be listed.
    """
    storage = storage_for(job.uris[0], job.environment)
    if not isinstance(storage, PrefixStorage):
        raise StreamerError(f"{job.uris[0]}: nothing lists this kind of source")
    return Resolved(job.job, storage.look_at(job.uris))


def _learned(
    before: Mapping[str, bool], now: Mapping[str, bool]
) -> tuple[tuple[str, bool | None], ...]:
    """The entries that differ; None for those that are gone."""
    changed = [place for place, is_right in now.items() if before.get(place) != is_right]
    gone = [place for place in before if place not in now]
    return tuple((place, now.get(place)) for place in (*changed, *gone))
