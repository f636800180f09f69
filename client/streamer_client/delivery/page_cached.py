"""Files that lie in this node's page cache: finding that out, and reading slices from them.

A few pages are sampled, because the kernel counts page by page, which for a large model takes
longer than the answer is worth. A reader notices at each read if a page is missing, so a wrong
answer costs only time. Any thread of a load may ask for an image.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Final

from streamer_client.contract.errors import SourceChanged, StreamerError
from streamer_client.contract.options import LoadOptions
from streamer_client.copy.feed import FeedShard
from streamer_client.delivery.pass_state import Trigger
from streamer_client.storage.local_files import LocalFile
from streamer_client.storage.local_reader import changed, identity_of
from streamer_client.storage.page_cache import PageCache

RESIDENT_SHARE: Final = 8
"""If more than an eighth is in shared memory, the load goes through the daemon."""
SAMPLES: Final = 32
"""How many pages of all files together are sampled, but at least one of each file."""
SAMPLE_BYTES: Final = 1 << 20


class CachedFile:
    """A file whose slices are read by system calls. Serves as an `Image`.

    It is never mapped, because it may shrink while it is read.
    """

    def __init__(self, file: LocalFile) -> None:
        self.fd = os.dup(file.fd)  # readers may go on just after the file was closed
        self.uri = file.uri
        weakref.finalize(self, os.close, self.fd).atexit = False

    @property
    def stays(self) -> bool:
        """False: others may truncate the file at any time."""
        return False

    def ended(self, told: str) -> StreamerError:
        """The error for the tensor `told`, which the file had when it was opened."""
        return SourceChanged(
            f"{self.uri}: ended before {told}; open the checkpoint again when nothing writes to it"
        )


class CachedFiles:
    """The files of one load.

    Args:
        files: the opened files; their owner closes them.
    """

    def __init__(self, files: Sequence[LocalFile]) -> None:
        self._files = files
        self._images: dict[int, CachedFile] = {}
        self._lock = threading.Lock()

    def image(self, shard: int) -> CachedFile:
        """The image of one file."""
        with self._lock:
            found = self._images.get(shard)
            if found is None:
                found = self._images[shard] = CachedFile(self._files[shard])
            return found

    def settle(self) -> None:
        """Check that no file whose image was handed out has changed since it was opened.

        Raises:
            SourceChanged: a file has changed; the text names it.
        """
        with self._lock:
            images = dict(self._images)
        for shard, image in images.items():
            found, stored = identity_of(os.fstat(image.fd)), self._files[shard].shard
            if found != stored.identity:
                raise changed(stored, found)


def first_route(files: Sequence[LocalFile], options: LoadOptions, *, page_cache: bool) -> Trigger:
    """Choose the first route before the open, as the page cache may spare asking the daemon."""
    usable = page_cache and options.memory_limit < 0 and bool(files)
    if usable and in_page_cache(files):
        return Trigger.CACHE_WARM
    return Trigger.WHOLE if options.hold else Trigger.WINDOW


def is_resident(resident_bytes: int, shards: Sequence[FeedShard]) -> bool:
    """Whether so much is in shared memory that the load goes through the daemon anyway."""
    return resident_bytes > sum(shard.size_bytes for shard in shards) // RESIDENT_SHARE


def in_page_cache(files: Sequence[LocalFile]) -> bool:
    """Whether every sample of these local files is in the page cache; False if none may look."""
    samples = -(-SAMPLES // max(1, len(files)))
    try:
        return all(_is_cached(file, samples) for file in files if file.shard.size_bytes)
    except OSError:  # reading the files will show what is wrong
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
