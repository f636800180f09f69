"""Asks stores which objects a source has, and whether credentials may read them.

Runs in the threads of a fetch worker. A local path is refused, since a worker has other rights than
the client that names the path.
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
    """Look at objects with one request each, with the job's own credentials.

    Raises:
        StreamerError: the store refuses, or sources of this kind cannot be listed.
    """
    storage = storage_for(job.uris[0], job.environment)
    if not isinstance(storage, PrefixStorage):
        raise StreamerError(f"{job.uris[0]}: nothing lists this kind of source")
    return Resolved(job.job, storage.look_at(job.uris))
