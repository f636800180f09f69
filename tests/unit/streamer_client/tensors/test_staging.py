"""Tensors that share an allocation: which share one, which are aligned, and that their bytes are
right.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from streamer_client.contract.safetensors.catalog import DTYPE_BITS, TensorEntry
from streamer_client.copy.destination import host_memory
from streamer_client.copy.plan import block_jobs
from streamer_client.tensors.staging import (
    ALIGNMENT_BYTES,
    GROUP_BYTES,
    SMALL_BYTES,
    Staged,
    StagedGroup,
    each_alone,
    small_together,
)

START = 104
CPU = torch.device("cpu")


def entries(*kinds: tuple[str, tuple[int, ...]]) -> list[TensorEntry]:
    found, at = [], START
    for place, (dtype, shape) in enumerate(kinds):
        size = torch.Size(shape).numel() * DTYPE_BITS[dtype] // 8
        found.append(TensorEntry(f"t{place}", dtype, shape, at, at + size))
        at += size
    return found


def staged(chosen: list[TensorEntry], data: bytes) -> dict[str, torch.Tensor]:
    """The tensors, staged and filled block by block."""
    groups = list(small_together(chosen))
    made: dict[int, StagedGroup] = {}
    for span in (span for group in groups for span in group.spans):
        owner = made.setdefault(id(span.group), StagedGroup(span.group, CPU))

        def place(one: Any, owner: StagedGroup = owner) -> Staged:
            return Staged(owner, one)

        for job in block_jobs(0, [span], 4096, place):
            for run in job.runs:
                at = run.start
                for target, start, stop in run.pieces:
                    (memory,) = target.memories(start, stop)
                    memory[:] = data[at : at + stop - start]
                    (flat,) = target.flats(start, stop)
                    assert list(target.extents(start, stop)) == [flat.data_ptr(), stop - start]
                    at += stop - start
    return {entry.name: tensor for group in groups for entry, tensor in made[id(group)].tensors()}


ODD = (
    ("BF16", (3, 5)),
    ("BF16", (7,)),
    ("F32", (2, 2)),
    ("U8", ()),
    ("U8", ()),
    ("U8", (2,)),
    ("F32", (0, 3)),
    ("F32", (2, 0)),
    ("I64", (1,)),
    ("BF16", (100, 300)),
    ("BF16", (2, 300)),
    ("BF16", (2, 3, 100)),
    ("F6_E2M3", (3, 4)),
    ("F64", (9,)),
)


@pytest.mark.parametrize("skip", [0, 2, 3])
def test_bytes_dtypes_shapes_and_alignment(skip: int) -> None:
    all_of_them = entries(*ODD)
    chosen = [entry for place, entry in enumerate(all_of_them) if not skip or place % skip]
    data = random.Random(3).randbytes(all_of_them[-1].stop)
    tensors = staged(chosen, data)
    assert list(tensors) == [entry.name for entry in chosen]
    for entry in chosen:
        tensor = tensors[entry.name]
        assert bytes(host_memory(tensor.contiguous())) == data[entry.start : entry.stop]
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % min(ALIGNMENT_BYTES, 16) == 0
        if entry.dtype == "BF16":
            assert (tensor.dtype, tuple(tensor.shape)) == (torch.bfloat16, entry.shape)


def test_staged_tensors_may_be_written_to_under_autograd() -> None:
    chosen = entries(*[("F32", (4,))] * 8)
    tensors = staged(chosen, bytes(chosen[-1].stop))
    weight = torch.ones(4, requires_grad=True)
    tensors["t1"].mul_(weight)
    (gradient,) = torch.autograd.grad(tensors["t1"].sum(), weight)
    assert gradient.shape == weight.shape


def test_large_tensors_are_alone_and_small_ones_share() -> None:
    large = ("U8", (SMALL_BYTES + 1,))
    small = ("U8", (SMALL_BYTES,))
    chosen = entries(small, small, large, small, large, large)
    groups = list(small_together(chosen))
    assert [[e.name for span in one.spans for e in span.entries] for one in groups] == [
        ["t0", "t1"],
        ["t2"],
        ["t3"],
        ["t4"],
        ["t5"],
    ]
    assert [group.single for group in groups] == [False, True, True, True, True]


def test_a_group_is_bounded_and_one_copy_fills_it() -> None:
    count = 2 * GROUP_BYTES // SMALL_BYTES + 1
    groups = list(small_together(entries(*[("U8", (SMALL_BYTES,))] * count)))
    assert [group.size_bytes for group in groups] == [GROUP_BYTES, GROUP_BYTES, SMALL_BYTES]
    assert [len(group.spans) for group in groups] == [1, 1, 1]


def test_a_gap_in_the_file_needs_another_span() -> None:
    one, _, three = entries(("U8", (16,)), ("U8", (16,)), ("U8", (16,)))
    (group,) = small_together([one, three])
    assert [(span.start, span.stop, span.at) for span in group.spans] == [
        (START, START + 16, 0),
        (START + 32, START + 48, 16),
    ]
    assert [group.single for group in each_alone([one, three])] == [True, True]


def test_what_failed_is_told_by_name() -> None:
    chosen = entries(*[("U8", (16,))] * 3)
    (group,) = small_together(chosen)
    target = Staged(StagedGroup(group, CPU), group.spans[0])
    assert target.told(0, 16) == f"bytes {START} to {START + 16} of the shard, tensor t0,"
    assert "tensor t1 and 1 more" in target.told(20, 40)
