"""Messages between daemon and workers survive any cutting of the byte stream."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer_client.storage.contract import StoredShard
from streamerd.workers.jobs import (
    Answer,
    AnyJob,
    Checksum,
    Checksummed,
    CloseSlab,
    Failed,
    Fetch,
    Fetched,
    Finished,
    FrameBuffer,
    Job,
    Punch,
    Reread,
    Resolve,
    Resolved,
    answer_decoder,
    frame,
    job_decoder,
)

SHARD = StoredShard("/m/ä.safetensors", 2**40, "file:1:2:3:4")
JOBS: list[AnyJob] = [
    Resolve(1, "/m", None, ("a", "b"), {"KEY": "é"}),
    Resolve(2, "/m", "*.x", None, {}),
    Fetch(3, "/slab", SHARD, {}, 2**40 - 1, 2**40),
    Punch(4, "/slab", 0, 4096),
    Reread(7, SHARD, {"KEY": "é"}, 4096, 8192),
    Checksum(6, "/slab", 4096, 8192),
    CloseSlab(5, "/slab"),
]
ANSWERS: list[Answer] = [
    Resolved(1, (SHARD,)),
    Fetched(2, 2**64 - 1, -1),
    Checksummed(5, 2**64 - 1),
    Finished(3),
    Failed(4, "source", "no", no_space=True),
]


def test_jobs_and_answers_come_back_as_they_were() -> None:
    buffer = FrameBuffer()
    jobs = [job_decoder.decode(body) for body in buffer.feed(b"".join(map(frame, JOBS)))]
    assert jobs == JOBS
    answers = [answer_decoder.decode(body) for body in buffer.feed(b"".join(map(frame, ANSWERS)))]
    assert answers == ANSWERS


@given(cuts=st.lists(st.integers(0, 400), max_size=30))
def test_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    stream = b"".join(map(frame, JOBS))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    buffer = FrameBuffer()
    bodies = [body for start, stop in pairwise(edges) for body in buffer.feed(stream[start:stop])]
    assert [job_decoder.decode(body) for body in bodies] == JOBS


def test_byte_by_byte() -> None:
    buffer = FrameBuffer()
    stream = frame(JOBS[0])
    counts = [len(list(buffer.feed(stream[at : at + 1]))) for at in range(len(stream))]
    assert counts == [0] * (len(stream) - 1) + [1]


@pytest.mark.parametrize("message", ANSWERS)
def test_an_answer_is_no_job(message: Job) -> None:
    (body,) = FrameBuffer().feed(frame(message))
    with pytest.raises(msgspec.ValidationError):
        job_decoder.decode(body)
