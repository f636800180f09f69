"""Blocks are proven a few at a time, again if a worker dies, and refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.in_loop import in_loop

from streamer_client.storage.contract import StoredShard
from streamerd.memory.room import MemoryRoom
from streamerd.reading.backing import Backing
from streamerd.reading.checksums import Checksums
from streamerd.reading.proofs import Proofs
from streamerd.settings.config import load_settings
from streamerd.state.events import AnyEvent, BlockProven, BlockRefuted, ShardKey
from streamerd.workers import jobs

KEY = ShardKey("/m", "1")
BLOCK = 64 << 10


class Workers:
    """Keeps the jobs that it gets; the test answers them."""

    slots = 4

    def __init__(self) -> None:
        self.asked: list[tuple[jobs.Checksum, Any]] = []

    def next_job(self) -> int:
        return 1

    def submit(self, job: jobs.Checksum, on_answer: Any) -> None:
        self.asked.append((job, on_answer))

    def answer(self, answer: jobs.Answer | None) -> jobs.Checksum:
        job, on_answer = self.asked.pop(0)
        on_answer(answer)
        return job


@in_loop
async def test_few_at_once_and_each_judged(caplog: pytest.LogCaptureFixture) -> None:
    settings, _ = load_settings(
        {"block_size": BLOCK, "memory_limit": 9 * BLOCK}, {}, None, MemoryRoom(None, None, None)
    )
    checksums = Checksums(4)
    for block in range(4):
        checksums[block] = 100 + block
    backing = Backing(StoredShard(*KEY[:1], 3 * BLOCK + 7, "1"), checksums, "/slab", 5)
    workers, said = Workers(), list[AnyEvent]()
    proofs = Proofs(settings, workers, {KEY: backing}, said.append)  # type: ignore[arg-type]
    proofs.prove(KEY, 0, 4)
    assert len(workers.asked) == 2
    workers.answer(jobs.Checksummed(1, 100))
    assert workers.answer(None).start == BLOCK  # None means that the worker died
    assert [job.start for job, _ in workers.asked] == [2 * BLOCK, BLOCK]
    workers.answer(jobs.Checksummed(1, 99))
    workers.answer(jobs.JobFailed(1, "internal", "no such slab"))
    (last,) = workers.asked
    assert (last[0].slab, last[0].start, last[0].stop) == (5, 3 * BLOCK, 3 * BLOCK + 7)
    workers.answer(jobs.Checksummed(1, 103))
    assert [(type(event), event.block) for event in said] == [  # type: ignore[union-attr]
        (BlockProven, 0),
        (BlockRefuted, 2),
        (BlockRefuted, 1),
        (BlockProven, 3),
    ]
    assert "no such slab" in caplog.text
    assert not workers.asked
