"""The slabs to fill and files to read that this worker has borrowed from the daemon, by handle.

This module owns the descriptors that came with them. A descriptor is closed when the daemon has
dropped its handle and no job uses it any more. The receiving thread takes handles in, drops them
and looks them up; the threads of the lanes use the slabs and files. Closing a file may never
return, and must not stop the receiving thread, so each `Borrowings` is given a function that closes
its things.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local_reader import LocalReader
from streamerd.shm.slab_file import SlabFile
from streamerd.workers.in_worker.examining import is_steady


class BorrowedSlab:
    """A slab, opened when a job first needs it: mapped or not, as that job asks. Thread-safe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._files: dict[bool, SlabFile] = {}
        self._opening = threading.Lock()

    def file(self, *, mapped: bool) -> SlabFile:
        """The slab, to be filled through a mapping or by system calls.

        Raises:
            OSError: too many open files, or no address space.
        """
        with self._opening:
            if mapped not in self._files:
                copy = os.dup(self._fd)
                try:
                    self._files[mapped] = SlabFile(copy, mapped=mapped)
                except BaseException:
                    os.close(copy)
                    raise
            return self._files[mapped]

    def close(self) -> None:
        """Unmap and close."""
        for file in self._files.values():
            file.close()
        os.close(self._fd)


class BorrowedSource:
    """A file to be read through the descriptors that a client passed. Thread-safe."""

    def __init__(self, stored: StoredShard, fds: tuple[int, ...]) -> None:
        self.stored = stored
        self._fds = fds
        self._opened: tuple[LocalReader, bool] | None = None
        self._opening = threading.Lock()

    def reader(self) -> LocalReader:
        """The file's reader, made at the first call, which looks at the file and so may hang.

        Raises:
            SourceChanged: the file is not the same as when it was examined.
            SourceError: the file cannot be examined.
        """
        return self._open()[0]

    def steady(self) -> bool:
        """Whether reads of the file always end; see `is_steady`. This call itself may hang."""
        return self._open()[1]

    def _open(self) -> tuple[LocalReader, bool]:
        with self._opening:
            if self._opened is None:
                reader = LocalReader(self._fds[0], self.stored, *self._fds[1:2])
                self._opened = reader, is_steady(self._fds[0])
            return self._opened

    def close(self) -> None:
        """Close the descriptors; may hang."""
        if self._opened is not None:
            self._opened[0].close()
        else:
            for fd in self._fds:
                os.close(fd)


class _Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


@dataclass(slots=True)
class _Entry(Generic[T]):
    thing: T
    users: int = 0
    dropped: bool = False


class Use(Generic[T]):
    """One job's use of a borrowed thing, which stays open until the use is released."""

    def __init__(self, borrowings: Borrowings[T], entry: _Entry[T]) -> None:
        self._borrowings = borrowings
        self._entry: _Entry[T] | None = entry

    @property
    def thing(self) -> T:
        """The thing itself.

        Raises:
            StreamerError: the use was released already.
        """
        if self._entry is None:
            raise StreamerError("what this job used was given back before the job ended")
        return self._entry.thing

    def release(self) -> None:
        """End the use. Idempotent; any thread may call this."""
        self._borrowings.release(self)

    def take_entry(self) -> _Entry[T] | None:
        """Take the entry out of this use. Only `Borrowings` calls this, under its lock."""
        entry, self._entry = self._entry, None
        return entry


class Borrowings(Generic[T]):
    """Borrowed things of one kind by their handles. Thread-safe.

    Args:
        kind: the word for such a thing in error texts.
        closing: called with a function that closes a thing; calls that function in some thread.
    """

    def __init__(self, kind: str, closing: Callable[[Callable[[], None]], None]) -> None:
        self._kind: Final = kind
        self._closing = closing
        self._entries: dict[int, _Entry[T]] = {}
        self._lock = threading.Lock()

    def take(self, handle: int, thing: T) -> None:
        """Own a thing under this handle from now on."""
        with self._lock:
            self._entries[handle] = _Entry(thing)

    def drop(self, handle: int) -> None:
        """Close the thing as soon as no job uses it; no effect for an unknown handle."""
        with self._lock:
            entry = self._entries.pop(handle, None)
            if entry is None:
                return
            entry.dropped = True
            if entry.users:
                return
        self._closing(entry.thing.close)

    def use(self, handle: int) -> Use[T]:
        """Use a thing, until the use is released.

        Raises:
            StreamerError: the handle is unknown.
        """
        with self._lock:
            entry = self._entries.get(handle)
            if entry is None:
                raise StreamerError(
                    f"{self._kind} {handle} is not lent to this worker any more: it was taken "
                    "back before the job came"
                )
            entry.users += 1
            return Use(self, entry)

    @contextlib.contextmanager
    def using(self, handle: int) -> Iterator[T]:
        """Use a thing for as long as the `with` block runs."""
        use = self.use(handle)
        try:
            yield use.thing
        finally:
            use.release()

    def release(self, use: Use[T]) -> None:
        """See `Use.release`."""
        with self._lock:
            entry = use.take_entry()
            if entry is None:
                return
            entry.users -= 1
            if entry.users or not entry.dropped:
                return
        self._closing(entry.thing.close)

    def close(self) -> None:
        """Drop everything."""
        for handle in list(self._entries):
            self.drop(handle)
