"""Receives files that clients hand over, batch by batch, and has workers examine them.

This module owns a transfer's descriptors from their arrival until the transfer is dropped or its
session ends. A request (`Open`, `Prefetch`, `Evict`, ...) names a transfer and is answered once all
of its files were examined. Runs in the daemon's loop; only workers look at the files, each time
within a time limit.
"""

from __future__ import annotations

import logging
import resource
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from streamer_client.contract.errors import (
    ConfigError,
    ProtocolMismatch,
    RequestRefused,
    StreamerError,
    error_from_code,
)
from streamer_client.contract.handover import MAX_NAME_BYTES, Files
from streamer_client.contract.printable import printable
from streamer_client.contract.uris import has_scheme
from streamerd.control.sessions import Session
from streamerd.reading.sources import Pair
from streamerd.workers import jobs
from streamerd.workers.in_daemon.supervisor import Workers

logger = logging.getLogger(__name__)

MAX_FILES: Final = 10_000
"""The most files of one transfer. The largest checkpoints have a few hundred."""
MAX_TRANSFERS: Final = 16
"""The most transfers of one client at once. A load has one while it is being opened."""
RESERVED_DESCRIPTORS: Final = 256
"""Descriptors that are kept free of clients' files, for sockets, workers, libraries and new
clients."""
SPARED: Final = 4096
"""Descriptors that one user must leave to other users, or an eighth of all if that is less."""
EXAMINATIONS: Final = 3
"""How many workers may die over one batch before its transfer fails."""


class Handed(NamedTuple):
    """One examined file of a transfer."""

    name: str
    """The client's name for the file."""
    pair: Pair


@dataclass(slots=True, eq=False)
class _Transfer:
    files: list[Handed | None] = field(default_factory=list)
    """The files in the client's order; None for a file that was not examined yet."""
    error: StreamerError | None = None
    """The first error of the transfer, which cannot be used then."""
    examining: int = 0
    dropped: bool = False
    waiting: list[Callable[[], None]] = field(default_factory=list)


class Handovers:
    """The transfers of all sessions. The descriptor socket passes received files to it.

    Args:
        workers: the workers that examine.
        discard: closes descriptors of a user's files, elsewhere than in the loop.
        unclosed: how many descriptors of a user were discarded and are not closed yet.
        wait_s: seconds that a file system may take to answer.
    """

    def __init__(
        self,
        workers: Workers,
        discard: Callable[[int, Sequence[int]], None],
        unclosed: Callable[[int], int],
        wait_s: float,
    ) -> None:
        self._workers = workers
        self._unclosed = unclosed
        self._discard_elsewhere = discard
        self._wait_s = wait_s
        self._of: dict[str, dict[int, _Transfer]] = {}
        self._pairs: dict[tuple[int, str, int], Pair] = {}
        """The pairs in use, by user, identity and ctime. All ranks of a user share one pair."""
        self._held: Counter[int] = Counter()
        """Number of descriptors of clients' files that are open here, by user."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(soft // 4, soft - RESERVED_DESCRIPTORS)
        self._most_of_one = self._most - min(self._most // 8, SPARED)
        """The most descriptors of one user, so that loads of other users can still begin."""

    # --- from the descriptor socket -------------------------------------------------------------

    def take(self, session: Session, packet: Files, descriptors: list[int]) -> int:
        """Receive a batch, own its descriptors from now on, and have its files examined."""
        self._held[session.uid] += len(descriptors)
        try:
            transfer = self._transfer_of(session, packet)
        except BaseException:
            self._discard(session.uid, descriptors)
            raise
        self._examine(session, transfer, packet, descriptors)
        return len(transfer.files)

    def _transfer_of(self, session: Session, packet: Files) -> _Transfer:
        if packet.transfer < 1:
            raise ProtocolMismatch("transfers are numbered from 1")
        transfers = self._of.setdefault(session.name, {})
        transfer = transfers.get(packet.transfer)
        if transfer is None:
            if len(transfers) >= MAX_TRANSFERS:
                raise RequestRefused(
                    f"{MAX_TRANSFERS} transfers of this client are open; drop one first"
                )
            transfer = transfers[packet.transfer] = _Transfer()
        if len(transfer.files) + len(packet.files) > MAX_FILES:
            raise RequestRefused(f"a transfer has {MAX_FILES} files at most; open fewer at once")
        if any(len(file.name.encode()) > MAX_NAME_BYTES for file in packet.files):
            raise ProtocolMismatch(f"a name has {MAX_NAME_BYTES} bytes at most")
        if any(has_scheme(file.name) for file in packet.files):
            # A URI would be taken for an object's, and its scheme would become a label of metrics.
            raise ProtocolMismatch("a handed-over file is called by its path, not by a URI")
        if not self.has_room(session):
            raise RequestRefused(
                f"{self._held.total()} files of clients are open here, {self._held[session.uid]} "
                f"of them of user {session.uid}; {self._most} and {self._most_of_one} are most: "
                "raise the daemon's limit of open files (LimitNOFILE), or load fewer "
                "at once"
            )
        return transfer

    def has_room(self, session: Session) -> bool:
        """Whether a client may hand over another batch now. If not, it has to wait a little."""
        mine, all_of_them = self._held[session.uid], self._held.total()
        mine += self._unclosed(session.uid)
        return mine <= self._most_of_one and all_of_them <= self._most

    def _examine(
        self, session: Session, transfer: _Transfer, packet: Files, descriptors: list[int]
    ) -> None:
        if not packet.files:
            return
        first = len(transfer.files)
        transfer.files.extend([None] * len(packet.files))
        files, groups, at = [], [], 0
        for file in packet.files:
            name = printable(file.name, MAX_NAME_BYTES)
            files.append(jobs.ExamineFile(name, file.direct, session.uid))
            groups.append(tuple(descriptors[at : at + 1 + file.direct]))
            at += 1 + file.direct
        transfer.examining += 1
        self._submit(session, transfer, tuple(files), groups, first, attempt=1)

    def _submit(
        self,
        session: Session,
        transfer: _Transfer,
        files: tuple[jobs.ExamineFile, ...],
        groups: list[tuple[int, ...]],
        first: int,
        *,
        attempt: int,
    ) -> None:
        def answered(answer: jobs.Answer | None) -> None:
            if answer is None and attempt < EXAMINATIONS and not transfer.dropped:
                self._submit(session, transfer, files, groups, first, attempt=attempt + 1)
                return
            self._examined(session, transfer, files, groups, first, answer)

        job = jobs.Examine(self._workers.next_job(), files)
        flat = [descriptor for group in groups for descriptor in group]
        self._workers.submit(job, answered, tuple(flat), self._wait_s)

    def _examined(
        self,
        session: Session,
        transfer: _Transfer,
        files: tuple[jobs.ExamineFile, ...],
        groups: list[tuple[int, ...]],
        first: int,
        answer: jobs.Answer | None,
    ) -> None:
        transfer.examining -= 1
        if transfer.dropped or not isinstance(answer, jobs.Examined):
            for group in groups:
                self._discard(session.uid, group)
            if not transfer.dropped:
                transfer.error = transfer.error or _unexamined(files, answer)
        else:
            for place, (found, group) in enumerate(zip(answer.found, groups, strict=True), first):
                self._note(session, transfer, place, found, group)
        if not transfer.examining:
            waiting, transfer.waiting = transfer.waiting, []
            for then in waiting:
                then()

    def _note(
        self,
        session: Session,
        transfer: _Transfer,
        place: int,
        found: jobs.ExaminedFile | jobs.Refusal,
        group: tuple[int, ...],
    ) -> None:
        if isinstance(found, jobs.Refusal):
            self._discard(session.uid, group)
            transfer.error = transfer.error or error_from_code(found.code, found.message)
            return
        key = session.uid, found.shard.identity, found.ctime_ns
        pair = self._pairs.get(key)
        if pair is not None and not pair.failed:
            self._discard(session.uid, group)
            transfer.files[place] = Handed(found.shard.uri, pair.retain())
            return
        if len(group) > 1 and (not found.direct_ok or self._held.total() > self._most // 2):
            self._discard(session.uid, group[1:])  # O_DIRECT is worth less than another file
            group = group[:1]
        transfer.files[place] = Handed(found.shard.uri, self._new_pair(session.uid, found, group))

    def _new_pair(self, uid: int, found: jobs.ExaminedFile, group: tuple[int, ...]) -> Pair:
        key = uid, found.shard.identity, found.ctime_ns

        def discard(descriptors: Sequence[int]) -> None:
            if self._pairs.get(key) is pair:
                del self._pairs[key]
            self._discard(uid, descriptors)

        pair = Pair(self._workers.lending, discard, found.shard, found.ctime_ns, uid, group)
        self._pairs[key] = pair
        return pair

    def drop(self, session: Session, transfer: int) -> None:
        """Forget a transfer that its client will not name any more, and release its files."""
        dropped = self._of.get(session.name, {}).pop(transfer, None)
        if dropped is not None:
            self._release(dropped)

    def forget(self, session: Session) -> None:
        """Forget all transfers of a session that ended."""
        for transfer in self._of.pop(session.name, {}).values():
            self._release(transfer)

    def _release(self, transfer: _Transfer) -> None:
        transfer.dropped = True
        for file in transfer.files:
            if file is not None:
                file.pair.release()

    def _discard(self, uid: int, descriptors: Sequence[int]) -> None:
        self._held[uid] -= len(descriptors)
        if not self._held[uid]:
            del self._held[uid]
        self._discard_elsewhere(uid, descriptors)

    # --- for requests ---------------------------------------------------------------------------

    def when_examined(
        self,
        session: Session,
        number: int,
        then: Callable[[tuple[Handed, ...]], None],
        failed: Callable[[StreamerError], None],
    ) -> None:
        """Call `then` with a transfer's files once all were examined, or `failed`.

        The transfer still owns the files; a caller that needs a pair for longer retains it.
        `failed` is also called for an unknown transfer, so that the caller can forget the request
        that waited.
        """
        transfer = self._of.get(session.name, {}).get(number)
        if transfer is None:
            unknown = f"transfer {number} was not begun on the descriptor socket"
            failed(ProtocolMismatch(unknown))
            return

        def judge() -> None:
            files = tuple(file for file in transfer.files if file is not None)
            if transfer.error is not None:
                failed(transfer.error)
            elif transfer.dropped:
                failed(ConfigError("the transfer was dropped before it was used"))
            else:
                then(files)

        if transfer.examining:
            transfer.waiting.append(judge)
        else:
            judge()


def _unexamined(files: tuple[jobs.ExamineFile, ...], answer: jobs.Answer | None) -> StreamerError:
    if isinstance(answer, jobs.JobFailed):
        return error_from_code(answer.code, answer.message)
    return StreamerError(f"{files[0].uri}: looking at it ended fetch workers; try again")
