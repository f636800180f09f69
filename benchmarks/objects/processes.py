"""The bare loop in many processes, as threads of one Python do not suffice for sixteen cores.

The processes share the list of blocks, and each takes the next one when it has time. They are
forked before the clock starts, without connections and without a page of their memory.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Final, Literal, assert_never

from benchmarks.checkpoint_files import stored_tensors
from benchmarks.objects.bare import connection, get, new_slab
from benchmarks.objects.images import BLOCK_BYTES, Objects

Memory = Literal["private", "faults", "huge"]
"""The memory to fill: one block's buffer for each connection; fresh shared memory by faults of 4
KiB; or shared memory in huge pages that are made block by block, as in streamerd."""
Views = Callable[[int, int, int], memoryview]
"""Gives bytes `start` to `stop` of an object's memory, ready to be filled."""

_forks: Final = multiprocessing.get_context("fork")


class BareProcesses:
    """As many connections as allowed, spread over the processes; a thread for each connection.

    Args:
        objects: the objects to read.
        memory: the kind of memory to fill.
    """

    def __init__(self, objects: Objects, memory: Memory) -> None:
        self._objects = objects
        self._memory = memory
        sizes = [os.path.getsize(path) for path in objects.files]
        self._slabs = [] if memory == "private" else [new_slab(size) for size in sizes]
        self._next = _forks.Value("q", 0)
        self._pipes: list[Connection] = []
        counts = spread(objects.connections, objects.processes)
        self._processes = [self._started(count) for count in counts]
        for pipe in self._pipes:
            pipe.recv()

    def _started(self, threads: int) -> multiprocessing.process.BaseProcess:
        ours, theirs = _forks.Pipe()
        self._pipes.append(ours)
        process = _forks.Process(target=self._live, args=(theirs, threads))
        process.start()
        theirs.close()
        return process

    def tensors(self) -> Iterator[tuple[str, memoryview]]:
        for pipe in self._pipes:
            pipe.send("go")
        for process in self._processes:
            process.join()
            if process.exitcode:
                raise RuntimeError("a process of the bare loop failed; its lines above say why")
        for path, fd in zip(self._objects.files, self._slabs, strict=self._slabs != []):
            view = memoryview(mmap.mmap(fd, os.path.getsize(path)))
            for tensor in stored_tensors(path):
                yield tensor.name, view[tensor.start : tensor.stop]

    def _live(self, pipe: Connection, threads: int) -> None:
        """Fill blocks by so many threads when told; the main function of each process."""
        blocks = self._objects.blocks()
        pipe.send("ready")
        pipe.recv()
        views = self._views()
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(self._loop, blocks, views) for _ in range(threads)]:
                done.result()

    def _loop(self, blocks: list[tuple[int, int, int]], views: Views | None) -> None:
        """Fill the next block until none is left; each connection's thread runs this."""
        connected = connection(self._objects)
        own = memoryview(bytearray(BLOCK_BYTES))
        while True:
            with self._next.get_lock():
                place = self._next.value
                self._next.value += 1
            if place >= len(blocks):
                return
            number, start, stop = blocks[place]
            view = own[: stop - start] if views is None else views(number, start, stop)
            get(connected, self._objects, number, start, view)

    def _views(self) -> Views | None:
        """This process's mappings; None if each connection has its own buffer."""
        from streamerd.shm.slab_file import SlabFile

        match self._memory:
            case "private":
                return None
            case "faults":
                sizes = [os.path.getsize(path) for path in self._objects.files]
                maps = [mmap.mmap(fd, size) for fd, size in zip(self._slabs, sizes, strict=True)]
                return lambda number, start, stop: memoryview(maps[number])[start:stop]
            case "huge":
                slabs = [SlabFile(os.dup(fd), mapped=True) for fd in self._slabs]

                def reserved(number: int, start: int, stop: int) -> memoryview:
                    slabs[number].reserve(start, stop)
                    view = slabs[number].view(start, stop)
                    assert view is not None
                    return view

                return reserved
            case _ as unknown:
                assert_never(unknown)


def spread(connections: int, processes: int) -> list[int]:
    """How many connections each process has; every process has at least one."""
    count = min(connections, processes)
    return [connections // count + (place < connections % count) for place in range(count)]
