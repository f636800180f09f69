"""What refusals taught this process: where buckets really are, and how wrong its clock is.

All S3 storages of a process share it, since each job makes its own storage. Thread-safe; bounded;
holds nothing secret.
"""

from __future__ import annotations

from typing import Final

from streamer_client.storage.remembered import Remembered

MAX_BUCKETS: Final = 1024


class Lessons:
    """All that refusals teach, by endpoint and, where it is about one, bucket."""

    def __init__(self) -> None:
        self.regions: Remembered[tuple[str, str], str] = Remembered(MAX_BUCKETS)
        """Region of a bucket."""
        self.hosts: Remembered[tuple[str, str], str] = Remembered(MAX_BUCKETS)
        """`scheme://host` that a bucket's requests were redirected to."""
        self.skews: Remembered[str, float] = Remembered(MAX_BUCKETS)
        """Seconds that a store's clock is ahead of ours, by endpoint."""


LESSONS: Final = Lessons()
"""The process's own."""
