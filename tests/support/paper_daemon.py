"""The daemon's loop alone: all its real parts, but with paper sockets and workers.

Files are what a test says they are: one number for each block stands for its bytes and for its
checksum. Jobs of workers stay unanswered until the test lets them work, so that a test can make
anything happen between two answers. Runs in a test's own asyncio loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar
from unittest import mock

from streamer_client.contract import messages as m
from streamer_client.contract.handover import Files, HandedFile
from streamer_client.contract.layout import block_count
from streamer_client.storage.contract import StoredShard
from streamerd.control.descriptors import DescriptorSocket, SlabOpener
from streamerd.control.sessions import Session
from streamerd.control.socket import ControlSocket
from streamerd.memory.room import MemoryRoom
from streamerd.parts import Parts
from streamerd.service import slabs as slabs_module
from streamerd.settings.config import load_settings
from streamerd.state import invariants
from streamerd.state.shard import Shard
from streamerd.workers import jobs, lanes
from streamerd.workers.in_daemon.supervisor import OnAnswer, Workers
from tests.support.load_fields import load_fields

BLOCK: Final = 64 << 10
OBJECT_CONTENT: Final = 7
"""The number that stands for the bytes of each block of each object."""

M = TypeVar("M", bound=m.Message)
J = TypeVar("J", bound=jobs.Job)


@dataclass(eq=False)
class PaperFile:
    """A file as a file system describes it."""

    inode: int
    content: list[int]
    """The number that stands for the bytes of each block."""
    ctime_ns: int = 1
    mtime_ns: int = 1
    refusal: str = ""
    """Why the file may not be read; empty if it may."""
    broken: bool = False
    """Whether reading fails."""

    @property
    def size_bytes(self) -> int:
        return len(self.content) * BLOCK

    @property
    def identity(self) -> str:
        return f"file:8:{self.inode}:{self.size_bytes}:{self.mtime_ns}"

    def touch(self) -> None:
        """Change ctime and no byte, as chmod, link and rename do."""
        self.ctime_ns += 1

    def rewrite(self, block: int, content: int, *, tell: bool = True) -> None:
        """Change a block, but neither size nor mtime; without `tell` ctime stays as well."""
        self.content[block] = content
        self.ctime_ns += tell


@dataclass
class Asked:
    """A job that nobody has answered, and the file that it is about."""

    job: jobs.AnyJob
    on_answer: OnAnswer
    files: list[PaperFile]
    slabs: list[int]
    fds: tuple[int, ...] = ()
    limit_s: float | None = None


class PaperWorkers(Workers):
    """Workers that do nothing until the test lets them answer."""

    def __init__(self) -> None:
        super().__init__(1, 2)
        self.asked: list[Asked] = []
        self.opened: dict[int, PaperFile] = {}
        """The files that descriptors of clients stand for."""
        self.slabs: dict[int, dict[int, int]] = {}
        """The content of the slab behind a descriptor, by block."""

    def submit(
        self,
        job: jobs.AnyJob,
        on_answer: OnAnswer,
        fds: tuple[int, ...] = (),
        limit_s: float | None = None,
    ) -> None:
        if isinstance(job, jobs.Back):  # no test needs this job unanswered
            asyncio.get_running_loop().call_soon(on_answer, jobs.Finished(job.job))
            return
        files, slabs = list[PaperFile](), list[int]()
        handle, source = lanes.handles_of(job)
        if source is not None:
            files.append(self.opened[self.lending._lent[source].fds[0]])
        if handle is not None:
            slabs += self.lending._lent[handle].fds if handle in self.lending._lent else ()
        for fd in fds:
            if fd in self.slabs:
                slabs.append(fd)
            else:
                files.append(self.opened[fd])
        self.asked.append(Asked(job, on_answer, files, slabs, fds, limit_s))

    def broadcast(self, make_job: object, on_done: object) -> None:
        assert callable(on_done)
        asyncio.get_running_loop().call_soon(on_done)

    def jobs_of(self, kind: type[J]) -> list[J]:
        """Unanswered jobs of one kind."""
        return [asked.job for asked in self.asked if isinstance(asked.job, kind)]

    def take(self, kind: type[jobs.Job]) -> Asked:
        """The oldest unanswered job of a kind, for the test to answer."""
        asked = next(asked for asked in self.asked if isinstance(asked.job, kind))
        self.asked.remove(asked)
        return asked

    def answer(self, asked: Asked) -> jobs.Answer:
        """The answer that a worker would give now, and the work that it would do."""
        number = asked.job.job
        match asked.job:
            case jobs.Examine(_, files):
                return jobs.Examined(number, tuple(self._examined(files, asked.files)))
            case jobs.Fetch() | jobs.Reread() if asked.files and asked.files[0].broken:
                return jobs.JobFailed(number, "source", "it cannot be read")
            case jobs.Fetch(start=start) if not asked.files:
                self.slabs[asked.slabs[0]][start // BLOCK] = OBJECT_CONTENT
                return jobs.Fetched(number, OBJECT_CONTENT, 0)
            case jobs.Fetch(start=start):
                (file,) = asked.files
                content = self.slabs[asked.slabs[0]][start // BLOCK] = file.content[start // BLOCK]
                return jobs.Fetched(number, content, 0, ctime_ns=file.ctime_ns)
            case jobs.Reread(start=start):
                (file,) = asked.files
                return jobs.Checksummed(number, file.content[start // BLOCK], file.ctime_ns)
            case jobs.Checksum(start=start):
                return jobs.Checksummed(number, self.slabs[asked.slabs[0]][start // BLOCK])
            case jobs.Compare(_, files):
                return self._compared(number, files, asked)
            case jobs.Punch(start=start, stop=stop):
                for block in range(start // BLOCK, -(-stop // BLOCK)):
                    for slab in asked.slabs:
                        self.slabs[slab].pop(block, None)
        return jobs.Finished(number)

    def _examined(
        self, files: Sequence[jobs.ExamineFile], opened: Sequence[PaperFile]
    ) -> Iterator[jobs.ExaminedFile | jobs.Refusal]:
        found = iter(opened)
        for asked in files:
            file = next(found)
            if asked.direct:
                next(found)
            if file.refusal:
                yield jobs.Refusal("source", file.refusal)
            else:
                stored = StoredShard(asked.uri, file.size_bytes, file.identity)
                yield jobs.ExaminedFile(stored, file.ctime_ns, direct_ok=True)

    def _compared(
        self, number: int, files: Sequence[jobs.CompareFile], asked: Asked
    ) -> jobs.Compared:
        differing = [
            (place, start)
            for place, compare in enumerate(files)
            for start in compare.starts
            if self.slabs[asked.slabs[place]].get(start // BLOCK, 0)
            != asked.files[place].content[start // BLOCK]
        ]
        return jobs.Compared(number, tuple(differing), ())


class _PaperSocket(ControlSocket):
    def __init__(self) -> None:
        self.sent: dict[str, list[m.Message]] = {}

    def forget(self, session: Session) -> None:
        """Do nothing: it keeps only what the session was sent."""

    def send(self, name: str, message: m.Message) -> bool:
        self.sent.setdefault(name, []).append(message)
        return True


class _PaperDescriptors(DescriptorSocket):
    def __init__(self) -> None:
        self.handed_out: list[tuple[int, tuple[int, ...]]] = []

    def forget(self, session: Session) -> None:
        """Do nothing: it keeps nothing of a session."""

    def hand_out(
        self,
        session: Session,
        load: int,
        shards: Sequence[int],
        opener: SlabOpener,
    ) -> None:
        self.handed_out.append((load, tuple(shards)))


@dataclass(eq=False)
class PaperClient:
    """One client."""

    daemon: PaperDaemon
    session: Session
    theirs: socket.socket
    transfers: int = 0
    asked: int = 0

    def hand_over(self, *files: PaperFile, direct: bool = False) -> int:
        """Hand files over, as `/world/INODE`; return the transfer's number."""
        self.transfers += 1
        self.send_batch(self.transfers, *files, direct=direct)
        return self.transfers

    def send_batch(self, transfer: int, *files: PaperFile, direct: bool = False) -> int:
        """Send one batch of a transfer; return how many files the daemon counts in the transfer."""
        packet = Files(transfer, tuple(HandedFile(f"/world/{f.inode}", direct) for f in files))
        opened = [self.daemon.open(file) for file in files for _ in range(1 + direct)]
        return self.daemon.parts.handovers.take(self.session, packet, opened)

    def say(self, message: m.ClientMessage) -> None:
        self.daemon.parts.requests.receive(self.session, message)

    def open(self, *files: PaperFile, load: int = 1, **options: object) -> int:
        """Hand files over and open them; return the request's number."""
        transfer = self.hand_over(*files)
        self.asked += 1
        fields = load_fields(options)
        request = m.Open(self.asked, load, "/world", transfer, **fields)  # type: ignore[arg-type]
        self.say(request)
        return self.asked

    def heard(self, kind: type[M]) -> list[M]:
        """Every message of one kind that the client was sent."""
        told = self.daemon.control.sent.get(self.session.name, [])
        return [message for message in told if isinstance(message, kind)]

    def hears(self, kind: type[M]) -> M:
        """The last message of this kind that the client was sent."""
        message = self.daemon.control.sent[self.session.name][-1]
        assert isinstance(message, kind), message
        return message

    def leave(self) -> None:
        self.daemon.parts.sessions.end(self.session, "test")


@dataclass(eq=False)
class PaperDaemon:
    """A daemon's loop; made by `paper_daemon`."""

    parts: Parts
    workers: PaperWorkers
    control: _PaperSocket
    descriptors: _PaperDescriptors
    clients: list[PaperClient] = field(default_factory=list)
    descriptors_made: list[tuple[int, int]] = field(default_factory=list)
    """Number and inode of each descriptor that was handed over."""

    def connect(self, uid: int = 1000) -> PaperClient:
        """Add one more client, which has said Hello."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        session = self.parts.sessions.begin(ours)
        session.uid = uid
        client = PaperClient(self, session, theirs)
        self.clients.append(client)
        client.say(m.Hello(0, m.PROTOCOL, "0", 1, "rank", 7))
        return client

    def open(self, file: PaperFile) -> int:
        """Make a descriptor that stands for a file."""
        fd = os.memfd_create(f"paper-{file.inode}")
        self.workers.slabs.pop(fd, None)  # a closed slab may have had this number
        self.workers.opened[fd] = file
        self.descriptors_made.append((fd, os.fstat(fd).st_ino))
        return fd

    def open_descriptors(self) -> int:
        """How many of the descriptors that were handed over are still open."""
        found = 0
        for fd, inode in self.descriptors_made:
            with contextlib.suppress(OSError):
                found += os.fstat(fd).st_ino == inode
        return found

    def turn(self) -> None:
        self.parts.turns.turn()
        invariants.check(self.parts.turns.model)

    async def work(self) -> None:
        """Let workers answer all their jobs, and all that follow from these."""
        await self.settle()
        while self.workers.asked:
            asked, self.workers.asked = self.workers.asked, []
            for one in asked:
                one.on_answer(self.workers.answer(one))
            await self.settle()

    async def answer(self, kind: type[jobs.Job], answer: jobs.Answer | None = None) -> None:
        """Answer the oldest job of a kind; with None, as a worker would."""
        await self.settle()
        asked = self.workers.take(kind)
        asked.on_answer(self.workers.answer(asked) if answer is None else answer)
        await self.settle()

    async def lose(self, kind: type[jobs.Job]) -> None:
        """Let the worker die that has the oldest job of a kind."""
        await self.settle()
        self.workers.take(kind).on_answer(None)
        await self.settle()

    async def settle(self) -> None:
        """Run the loop until nothing is left to do without a worker."""
        for _ in range(5):
            self.turn()
            await asyncio.sleep(0)

    def shard(self, file: PaperFile) -> Shard:
        """The shard that the file would be now."""
        return self.parts.turns.model.shards[self.parts.editions.key_of(file.identity)]

    def shards(self) -> int:
        return len(self.parts.model.shards)

    async def stop(self) -> None:
        for client in self.clients:
            client.leave()
            client.theirs.close()
        await self.work()
        backings = list(self.parts.backings.values())
        await self.parts.stop(0.0)
        for backing in backings:
            if backing.slab_fd >= 0:
                os.close(backing.slab_fd)


@contextlib.asynccontextmanager
async def paper_daemon(limit_blocks: int = 64) -> AsyncIterator[PaperDaemon]:
    """A daemon of paper for one test; nothing is left open after it."""
    workers = PaperWorkers()

    def create(_name: str, _size_bytes: int) -> int:
        fd = os.memfd_create("paper-slab")
        workers.slabs[fd] = {}
        return fd

    settings, _ = load_settings(
        {"block_size": BLOCK, "memory_limit": limit_blocks * BLOCK},
        {},
        None,
        MemoryRoom(None, None, None),
    )
    with (
        mock.patch.object(slabs_module, "create_slab", create),
        mock.patch.object(slabs_module, "remove_slab"),
        mock.patch.object(slabs_module, "open_readonly", side_effect=OSError),
    ):
        control, descriptors = _PaperSocket(), _PaperDescriptors()
        parts = Parts(
            settings,
            workers,
            "0" * 8,
            dict,
            make_control=lambda _path, _sessions: control,
            make_descriptors=lambda *_parts: descriptors,
        )
        daemon = PaperDaemon(parts, workers, control, descriptors)
        try:
            yield daemon
        finally:
            await daemon.stop()


def file(inode: int, blocks: int = 3, **fields: object) -> PaperFile:
    """A file whose blocks are all different."""
    content = [1000 * inode + block for block in range(1, blocks + 1)]
    assert block_count(blocks * BLOCK, BLOCK) == blocks
    return PaperFile(inode, content, **fields)  # type: ignore[arg-type]
