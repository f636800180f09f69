"""Messages between daemon and workers survive any cutting of the byte stream."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer_client.storage.contract import StoredShard
from streamerd.workers.frames import FrameBuffer, frame
from streamerd.workers.jobs import (
    Answer,
    AnyJob,
    Checksum,
    Checksummed,
    CloseSlab,
    Compare,
    Compared,
    CompareFailure,
    CompareFile,
    Drop,
    Examine,
    Examined,
    ExaminedFile,
    ExamineFile,
    Fetch,
    Fetched,
    Finished,
    GiveUp,
    JobFailed,
    Punch,
    Refusal,
    Reply,
    Request,
    Reread,
    Resolve,
    Resolved,
    StillGoing,
    Stuck,
    TakeSlab,
    TakeSource,
    answer_decoder,
    digest_of,
    hung,
    job_decoder,
)
from streamerd.workers.lanes import handles_of, lane_of, subject_of

SHARD = StoredShard("/m/ä.safetensors", 2**40, "file:1:2:3:4")
JOBS: list[AnyJob] = [
    Resolve(1, "s3://m", None, ("a", "b"), {"KEY": "é"}),
    Resolve(2, "s3://m", "*.x", None, {}, (("s3: s3://m", True),)),
    Examine(3, (ExamineFile("/m/ä", True, 1000), ExamineFile("/m/b", False, 0))),
    Fetch(4, 17, SHARD, 18, {}, 2**40 - 1, 2**40),
    Fetch(5, 17, SHARD, None, {"KEY": "é"}, 0, 1),
    Punch(6, 17, 0, 4096),
    Reread(7, SHARD, None, {"KEY": "é"}, 4096, 8192),
    Checksum(8, 17, 4096, 8192),
    Compare(9, (CompareFile((0, 4096), 5000),)),
    CloseSlab(10, 17),
]
REQUESTS: list[Request] = [
    *JOBS,
    TakeSlab(17),
    TakeSource(18, SHARD),
    Drop(17),
    GiveUp(4, 1.5),
]
ANSWERS: list[Answer] = [
    Resolved(1, (SHARD,)),
    Resolved(2, (), (("s3: s3://m", False), ("s3: s3://n", None))),
    Examined(3, (ExaminedFile(SHARD, 1, True), Refusal("source", "no"))),
    Fetched(2, 2**64 - 1, -1, 0, 2**62),
    Checksummed(5, 2**64 - 1),
    Compared(9, ((0, 4096),), (CompareFailure(1, "source", "no"),)),
    Finished(3),
    JobFailed(4, "source", "no", no_space=True),
    hung(4, "/m/a", 1.5),
]
REPLIES: list[Reply] = [*ANSWERS, StillGoing(4, 0.5), Stuck(4)]


def test_jobs_and_answers_come_back_as_they_were() -> None:
    buffer = FrameBuffer()
    jobs = [job_decoder.decode(body) for body in buffer.feed(b"".join(map(frame, REQUESTS)))]
    assert jobs == REQUESTS
    answers = [answer_decoder.decode(body) for body in buffer.feed(b"".join(map(frame, REPLIES)))]
    assert answers == REPLIES


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


def test_a_frame_says_how_many_descriptors_are_its() -> None:
    stream = frame(JOBS[0]) + frame(JOBS[2], 3) + frame(JOBS[3], 253)
    assert [count for _, count in FrameBuffer().frames(stream)] == [0, 3, 253]


def test_what_a_job_needs_and_where_it_is_carried_out() -> None:
    needs = {job.job: (lane_of(job).value, *handles_of(job)) for job in JOBS}
    assert needs == {
        1: ("aside", None, None),
        2: ("aside", None, None),
        3: ("aside", None, None),
        4: ("disk", 17, 18),
        5: ("store", 17, None),
        6: ("slabs", 17, None),
        7: ("aside", None, None),
        8: ("disk", 17, None),
        9: ("aside", None, None),
        10: ("slabs", None, None),
    }
    assert all(subject_of(job) for job in JOBS)
    assert subject_of(JOBS[2]) == "one of 2 files"


@pytest.mark.parametrize("message", REPLIES)
def test_an_answer_is_no_job(message: Reply) -> None:
    (body,) = FrameBuffer().feed(frame(message))
    with pytest.raises(msgspec.ValidationError):
        job_decoder.decode(body)


def test_environments_that_differ_have_different_digests() -> None:
    alike = [{"A": "1\0B=2"}, {"A": "1", "B": "2"}, {"A": "", "1": "B2"}, {"A=1": "B", "2": ""}, {}]
    assert len({digest_of(each) for each in alike}) == len(alike)
    assert digest_of({"A": "1", "B": "2"}) == digest_of({"B": "2", "A": "1"})
