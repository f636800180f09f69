"""The compiled ring (`ring.c`), called through ctypes.

Owns finding the library, which the package's build left beside this module, and converting
arguments and errors. Copying threads call it, without the interpreter lock. The comment at the head
of `ring.c` says what the C code does and what it leaves to Python.
"""

from __future__ import annotations

import array
import ctypes
import errno
import functools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from streamer_client.copy.cut import Part
from streamer_client.copy.destination import Target, memory_at
from streamer_client.copy.feed import Image
from streamer_client.copy.plan import Piece
from streamer_client.copy.ring.lanes import CudaFailure, ShortImage
from streamer_client.copy.slice import Readable, Slice

logger = logging.getLogger(__name__)

LIBRARY_ENV: Final = "STREAMERD_RING_LIBRARY"
"""Environment variable: path of the compiled library, or `off` to do without it."""
LIBRARY: Final = "_ring.so"
"""The library's file beside this module; its name has no Python tag, as it serves every Python."""
DRIVER: Final = "libcuda.so.1"
_ABI: Final = 6
MOST_DIMENSIONS: Final = 8
"""How many repetitions C's `struct rows` has."""
MOST_LANES: Final = 64
"""How many lanes may serve the queue of slices."""
_FAILED_CUDA, _FAILED_SYSTEM, _FAILED_SHORT, _FAILED_DRIVER = 1, 2, 3, 4


class _Failure(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("code", ctypes.c_int32),
        ("at", ctypes.c_uint64),
        ("name", ctypes.c_char * 64),
    )
    kind: int
    code: int
    at: int
    name: bytes


class NoLibrary(Exception):
    """The compiled library, or CUDA's driver, cannot be used; the text says why."""


_POINTER, _U64, _U32, _INT = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int
_SIGNATURES: Final = {
    "ring_abi": (_INT, ()),
    "ring_open": (_POINTER, (ctypes.c_char_p, _INT, _U32, _U64, _POINTER)),
    "ring_fence": (_INT, (_POINTER, _POINTER, _POINTER)),
    "ring_close": (None, (_POINTER,)),
    "lane_open": (_POINTER, (_POINTER, _POINTER)),
    "lane_copy": (_INT, (_POINTER, _INT, _POINTER, _U64, _U64, _POINTER, _POINTER)),
    "lane_gather": (_INT, (_POINTER, _POINTER, _U64, _POINTER)),
    "lane_slot": (_POINTER, (_POINTER, _POINTER)),
    "lane_send": (_INT, (_POINTER, _U64, _U64, _POINTER, _POINTER)),
    "lane_sent": (_U64, (_POINTER,)),
    "lane_arrived": (_INT, (_POINTER, _U64)),
    "lane_wait": (_INT, (_POINTER, _U64, _POINTER)),
    "lane_close": (_INT, (_POINTER, _POINTER)),
    "lane_serve": (_INT, (_POINTER, _U32, _U64, _POINTER)),
    "ring_add": (_POINTER, (_POINTER, _POINTER, _INT)),
    "ring_calls": (_U64, (_POINTER,)),
    "ring_call": (None, (_POINTER,)),
    "ring_end": (None, (_POINTER,)),
    "slice_arrived": (_INT, (_POINTER, _POINTER)),
    "slice_wait": (_INT, (_POINTER, _POINTER, _POINTER, _POINTER)),
    "slice_withdraw": (None, (_POINTER, _POINTER)),
    "slice_free": (None, (_POINTER, _POINTER)),
    "image_map": (_POINTER, (_INT, _U64)),
    "image_unmap": (None, (_POINTER, _U64)),
}


_AT_ONCE: Final = (
    *("lane_sent", "lane_arrived"),
    *("ring_add", "ring_calls", "ring_call", "ring_end"),
    *("slice_arrived", "slice_withdraw", "slice_free"),
)
"""Functions that return at once, and are called without giving up the interpreter lock. A thread
that gives it up queues for it again behind all others."""


def library_path() -> str | None:
    """Path of the compiled library; None if it was not built, or is switched off."""
    chosen = os.environ.get(LIBRARY_ENV)
    if chosen:
        return None if chosen == "off" else chosen
    path = os.path.join(os.path.dirname(__file__), LIBRARY)
    return path if os.path.exists(path) else None


@functools.cache
def load_library(path: str) -> ctypes.CDLL:
    """Load the compiled library and declare its functions' types.

    Raises:
        NoLibrary: the library cannot be loaded, or is of another version.
    """
    try:
        library = ctypes.CDLL(path)
        at_once = ctypes.PyDLL(path)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(at_once if name in _AT_ONCE else library, name)
            function.restype, function.argtypes = result, arguments
            setattr(library, name, function)
    except (OSError, AttributeError) as error:
        raise NoLibrary(f"{path}: {error}") from error
    if library.ring_abi() != _ABI:
        raise NoLibrary(f"{path} is of another version; install streamerd again")
    return library


class NativeRing:
    """The compiled ring. See `lanes.Ring`.

    Args:
        library: the library from `load_library`.
        device: CUDA's ordinal of the device, in this process.
        slots: how many slots each lane has.
        slot_bytes: size of a slot, a multiple of the page size.
        stream: returns the caller's current stream on the device; called at each fence.
        driver: file name of CUDA's driver library.

    Raises:
        NoLibrary: the driver cannot be used.
        CudaFailure: the device cannot be used.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        device: int,
        slots: int,
        slot_bytes: int,
        stream: Callable[[], int],
        driver: str = DRIVER,
    ) -> None:
        self.slot_bytes = slot_bytes
        self._library = library
        self._stream = stream
        self._images = Images(library)
        failure = _Failure()
        self._ring: int | None = library.ring_open(
            driver.encode(), device, slots, slot_bytes, ctypes.byref(failure)
        )
        if not self._ring:
            if failure.kind == _FAILED_DRIVER:
                raise NoLibrary(f"CUDA's driver has no {failure.name.decode()}")
            _raise(failure)

    def fence(self) -> None:
        failure = _Failure()
        if self._library.ring_fence(self._ring, self._stream(), ctypes.byref(failure)):
            _raise(failure)

    def lane(self) -> NativeLane:
        failure = _Failure()
        lane = self._library.lane_open(self._ring, ctypes.byref(failure))
        if not lane:
            _raise(failure)
        return NativeLane(self._library, lane, self.slot_bytes, self._images)

    def queue(self) -> NativeQueue:
        """The queue of slices that this ring's lanes serve."""
        return NativeQueue(self._library, self._ring, self._images)

    def close(self) -> None:
        ring, self._ring = self._ring, None
        if ring:
            self._images.close()
            self._library.ring_close(ring)


class Images:
    """The mappings of shard images that lanes read from; each is made at its first use."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._mapped: dict[Image, tuple[int | None, int]] = {}

    def address(self, image: Image, stop: int) -> int | None:
        """The address of an image's mapping; None if it has none, or ends before `stop`."""
        found = self._mapped.get(image)
        if found is None:
            with self._lock:
                found = self._mapped.get(image)
                if found is None:
                    size_bytes = os.fstat(image.fd).st_size
                    found = self._library.image_map(image.fd, size_bytes), size_bytes
                    self._mapped[image] = found
        address, size_bytes = found
        return address if stop <= size_bytes else None

    def close(self) -> None:
        for address, size_bytes in self._mapped.values():
            if address:
                self._library.image_unmap(address, size_bytes)
        self._mapped.clear()


class NativeQueue:
    """The slices that lanes of a `NativeRing` gather without the interpreter; see `queue.h`.

    A slice is known by the number that `add` gives, until `free`. Nothing is called once the ring
    is closed.
    """

    DONE, BROKEN, ENDED, NOT_YET = range(4)

    def __init__(self, library: ctypes.CDLL, ring: int | None, images: Images) -> None:
        self._library = library
        self._ring = ring
        self._images = images

    def add(self, made: Slice, image: Image, *, asked: bool) -> int | None:
        """Have a whole slice gathered; None if C cannot hold it."""
        if len(made.cut.outer) > MOST_DIMENSIONS:
            return None
        whole = Readable(made, Part(0, made.cut.size_bytes), image)
        fields = array.array("Q", gathering(self._images, whole))
        there, _ = fields.buffer_info()
        number: int | None = self._library.ring_add(self._ring, there, asked)
        return number

    def calls(self) -> int:
        """How often `call` was called."""
        return int(self._library.ring_calls(self._ring))

    def call(self) -> None:
        """Make all lanes that serve return to Python."""
        self._library.ring_call(self._ring)

    def end(self) -> None:
        """Let nothing more be gathered, and make every `wait` return."""
        self._library.ring_end(self._ring)

    def arrived(self, number: int) -> bool:
        """Whether all bytes of a slice are on the device, and nothing failed."""
        return bool(self._library.slice_arrived(self._ring, number))

    def wait(self, number: int) -> tuple[int, Sequence[int], int, Exception | None]:
        """Wait a tenth of a second at most until a slice is gathered, before foretold ones.

        Returns:
            What became of it; of each lane how many slots must arrive; and, if it is `BROKEN`, the
            byte of the slice at which it failed, and how: `CudaFailure`, `ShortImage`, or OSError.
        """
        failure, sent = _Failure(), (ctypes.c_uint64 * MOST_LANES)()
        found = int(self._library.slice_wait(self._ring, number, sent, ctypes.byref(failure)))
        if found != self.BROKEN:
            return found, list(sent), 0, None
        try:
            _raise(failure)
        except (CudaFailure, ShortImage, OSError) as error:
            return found, list(sent), failure.at, error

    def withdraw(self, number: int) -> None:
        """Give up what no lane has begun of a slice; `wait` waits for the rest."""
        self._library.slice_withdraw(self._ring, number)

    def free(self, number: int) -> None:
        """Forget a slice that was waited for."""
        self._library.slice_free(self._ring, number)


class NativeLane:
    """A lane of a `NativeRing`. See `lanes.RingLane`."""

    def __init__(self, library: ctypes.CDLL, lane: int, slot_bytes: int, images: Images) -> None:
        self._library = library
        self._images = images
        self._lane = lane
        self._slot_bytes = slot_bytes
        self._failure = _Failure()
        self._told = ctypes.byref(self._failure)

    @property
    def sent(self) -> int:
        return int(self._library.lane_sent(self._lane))

    def copy(self, image: Image, start: int, total: int, pieces: Sequence[Piece[Target]]) -> bool:
        where = _addresses(pieces)
        address, _ = where.buffer_info()
        mapped = self._images.address(image, start + total)
        if self._library.lane_copy(self._lane, image.fd, mapped, start, total, address, self._told):
            _raise(self._failure)
        return True

    def gather(self, parts: Sequence[Readable]) -> bool:
        if any(len(one.slice.cut.outer) > MOST_DIMENSIONS for one in parts):
            return False
        flat = array.array("Q")
        for one in parts:
            flat.extend(gathering(self._images, one))
        there, _ = flat.buffer_info()
        if self._library.lane_gather(self._lane, there, len(parts), self._told):
            _raise(self._failure)
        return True

    def serve(self, number: int, calls: int) -> None:
        """Gather slices of the ring's queue until the queue ends or `calls` is outdated."""
        if self._library.lane_serve(self._lane, number, calls, self._told):
            _raise(self._failure)

    def slot(self) -> memoryview:
        address = self._library.lane_slot(self._lane, self._told)
        if not address:
            _raise(self._failure)
        return memory_at(address, self._slot_bytes)

    def send(self, skip: int, total: int, pieces: Sequence[Piece[Target]]) -> None:
        where = _addresses(pieces)
        address, _ = where.buffer_info()
        if self._library.lane_send(self._lane, skip, total, address, self._told):
            _raise(self._failure)

    def wait(self, sent: int) -> None:
        if self._library.lane_arrived(self._lane, sent):
            return
        failure = _Failure()  # own memory, as other threads wait during a copy
        if self._library.lane_wait(self._lane, sent, ctypes.byref(failure)):
            _raise(failure)

    def close(self) -> None:
        if self._library.lane_close(self._lane, self._told):
            _raise(self._failure)


def gathering(images: Images, one: Readable) -> list[int]:
    """The fields of C's `struct gathering`."""
    made, (start, stop), image = one
    cut = made.cut
    mapped = images.address(image, cut.stop) if image.stays else None
    fields = [image.fd, mapped or 0, start, stop - start, made.address + start]
    fields += [cut.start, cut.row_bytes, len(cut.outer)]
    for dimension in cut.outer:
        fields += dimension
    return fields + [0] * (2 * (MOST_DIMENSIONS - len(cut.outer)))


def _addresses(pieces: Sequence[Piece[Target]]) -> array.array[int]:
    """C's array of `struct piece`: the address and size of each extent that the pieces cover."""
    flat = array.array("Q")
    for target, start, stop in pieces:
        flat += target.extents(start, stop)
    return flat


def _raise(failure: _Failure) -> NoReturn:
    name = failure.name.decode(errors="replace")
    if failure.kind == _FAILED_SYSTEM:
        raise OSError(failure.code, f"{name}: {os.strerror(failure.code)}")
    if failure.kind == _FAILED_SHORT:
        raise ShortImage
    if failure.kind == _FAILED_CUDA:
        raise CudaFailure(name, failure.at)
    raise CudaFailure(errno.errorcode.get(failure.code, "unknown failure"))
