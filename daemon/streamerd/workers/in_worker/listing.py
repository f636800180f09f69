"""Asks stores which objects there are, and whether one may read them.

Runs in the threads of a fetch worker; a local path is refused, since a worker has other rights than
the client that names it.
"""

from __future__ import annotations

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.prefixes import PrefixStorage
from streamer_client.storage.registry import storage_for
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
    storage = storage_for(job.source, job.environment)
    return Resolved(job.job, storage.list_shards(job.source, job.pattern, job.files))


def look_at(job: LookAt) -> Resolved:
    """The objects as one request for each tells them, by the job's own credentials.

    Raises:
        StreamerError: the store refuses, or it is of a kind that is never listed.
    """
    storage = storage_for(job.uris[0], job.environment)
    if not isinstance(storage, PrefixStorage):
        raise StreamerError(f"{job.uris[0]}: nothing lists this kind of source")
    return Resolved(job.job, storage.look_at(job.uris))
