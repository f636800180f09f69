"""Whether files lie in this node's page cache, found out by samples.

The kernel counts page by page, which for a large model takes longer than the answer is worth. Who
reads such files notices what is missing at each read, so a wrong answer costs time and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from streamer_client.storage.local_files import LocalFile
from streamer_client.storage.page_cache import PageCache

SAMPLES: Final = 32
"""Of all files together, but one of each at least."""
SAMPLE_BYTES: Final = 1 << 20


def in_page_cache(files: Sequence[LocalFile]) -> bool:
    """Whether every sample of these local files is in the page cache; False where none may look."""
    samples = -(-SAMPLES // max(1, len(files)))
    try:
        return all(_is_cached(file, samples) for file in files if file.shard.size_bytes)
    except OSError:  # reading them will tell
        return False


def _is_cached(file: LocalFile, samples: int) -> bool:
    size_bytes = file.shard.size_bytes
    cache = PageCache(file.fd, size_bytes)
    for place in range(samples):
        start = size_bytes * place // samples
        stop = min(start + SAMPLE_BYTES, size_bytes)
        if not all(run.cached for run in cache.runs(start, stop)):
            return False
    return True
