"""The yardsticks: loops of nothing but ranged GETs over kept connections, with `readinto`.

They differ in the memory that they fill. The classes `Bare*` use the threads of one process;
`processes.py` has the same loop in many processes.
"""

from __future__ import annotations

import ctypes
import http.client
import mmap
import os
import urllib.parse
import uuid
from typing import Any

from benchmarks.objects.images import Images, Objects, read_all
from benchmarks.objects.tls import client_context


def connection(objects: Objects) -> http.client.HTTPConnection:
    """A connection to the server, made when it is first used."""
    parts = urllib.parse.urlsplit(objects.endpoint)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.netloc, context=client_context(objects.bundle))
    return http.client.HTTPConnection(parts.netloc)


def get(
    connected: http.client.HTTPConnection, objects: Objects, number: int, start: int, view: Any
) -> None:
    """Fill the view from the object's byte `start` on."""
    wanted = {"Range": f"bytes={start}-{start + len(view) - 1}"}
    connected.request("GET", f"/{objects.bucket}/{objects.keys[number]}", headers=wanted)
    answer = connected.getresponse()
    read_all(answer, view)
    answer.read()


class Bare(Images):
    """The bare loop into fresh shared memory, whose pages of 4 KiB are made by page faults."""

    def block(self, number: int, start: int, stop: int) -> None:
        connected = self.own(lambda: connection(self.objects))
        get(connected, self.objects, number, start, self.views[number][start:stop])


class BareHuge(Bare):
    """The bare loop into huge pages, which are made block by block, as in streamerd."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        from streamerd.shm.slab_file import SlabFile

        self._slab = SlabFile
        self._slabs: list[SlabFile] = []

    def memory(self, size_bytes: int) -> memoryview:
        self._slabs.append(self._slab(new_slab(size_bytes), mapped=True))
        view = self._slabs[-1].view(0, size_bytes)
        assert view is not None
        return view

    def block(self, number: int, start: int, stop: int) -> None:
        self._slabs[number].reserve(start, stop)
        super().block(number, start, stop)


class BareExisting(Bare):
    """The bare loop into memory that has its pages: a yardstick for filling parameters."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        self._touched = [self._touch(os.path.getsize(path)) for path in objects.files]

    @staticmethod
    def _touch(size_bytes: int) -> memoryview:
        memory = mmap.mmap(-1, size_bytes)
        ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, size_bytes)
        return memoryview(memory)

    def memory(self, size_bytes: int) -> memoryview:
        del size_bytes
        return self._touched.pop(0)


def new_slab(size_bytes: int) -> int:
    """The descriptor of shared memory without a name and without any page yet."""
    from streamerd.shm.slabs import create_slab, remove_slab

    name = f"/streamerd-bench.{uuid.uuid4().hex}"
    descriptor = create_slab(name, size_bytes)
    remove_slab(name)
    return descriptor
