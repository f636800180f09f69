"""Targets are filled with every byte in its place; mismatches are errors, and names are checked on
both sides.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from tests.support.paper_feed import BLOCK, PaperFeed, shard_of

from streamer_client.contract.errors import ConfigError, SourceError
from streamer_client.tensors.filling import TargetFiller
from streamer_client.tensors.headers import Headers
from streamer_client.tensors.selection import CatalogEntry


def f32(*values: float) -> tuple[str, list[int], bytes]:
    return (
        "F32",
        [len(values)],
        bytes(torch.tensor(values, dtype=torch.float32).view(torch.uint8).tolist()),
    )


class Told:
    """The bytes and names that a filler reports to its caller."""

    def __init__(self) -> None:
        self.mismatches: list[tuple[CatalogEntry, torch.Tensor]] = []
        self.loaded: list[str] = []


def fill(
    feed: PaperFeed, targets: Mapping[str, torch.Tensor], told: Told, *, strict: bool = True
) -> frozenset[str]:
    return TargetFiller(
        feed,
        Headers(feed),
        targets,
        strict=strict,
        on_mismatch=lambda _, stored, target: told.mismatches.append((stored, target)),
        on_tensors=lambda entries: told.loaded.extend(entry.name for entry in entries),
    ).run()


def test_targets_of_the_stored_form_are_filled_in_place() -> None:
    feed = PaperFeed(
        shard_of({"a": f32(1, 2), "none": f32()}),
        shard_of({"b": f32(*range(3 * BLOCK))}),
        shard_of({"alone": f32()}),
    )
    targets = {"a": torch.zeros(2), "none": torch.zeros(0), "b": torch.zeros(3 * BLOCK)}
    targets["alone"] = torch.zeros(0)
    where = {name: target.data_ptr() for name, target in targets.items()}
    told = Told()
    assert fill(feed, targets, told) == {"a", "alone", "b", "none"}
    assert targets["a"].tolist() == [1, 2]
    assert targets["b"].tolist() == list(range(3 * BLOCK))
    assert {name: target.data_ptr() for name, target in targets.items()} == where
    assert sorted(told.loaded) == ["a", "alone", "b", "none"]
    assert told.mismatches == []
    assert (len(feed.passes), feed.left_blocks) == (1, set())


def test_other_dtypes_shapes_and_layouts_are_converted_and_only_forms_are_told() -> None:
    file = shard_of(
        {
            "dtype": f32(1.5, 2.5),
            "larger": f32(3, 4),
            "strided": ("F32", [2, 2], f32(1, 2, 3, 4)[2]),
        }
    )
    targets = {
        "dtype": torch.zeros(2, dtype=torch.float64),
        "larger": torch.full((3,), 9.0),
        "strided": torch.zeros(2, 2).t(),
    }
    told = Told()
    fill(PaperFeed(file), targets, told)
    assert targets["dtype"].tolist() == [1.5, 2.5]
    assert targets["larger"].tolist() == [3, 4, 9]
    assert targets["strided"].tolist() == [[1, 2], [3, 4]]
    assert [(stored.name, stored.uri) for stored, _ in told.mismatches] == [
        ("dtype", "/0"),
        ("larger", "/0"),
    ]
    assert told.mismatches[0][1].dtype == torch.float64
    assert sorted(told.loaded) == ["dtype", "larger", "strided"]


def test_of_targets_that_share_memory_the_last_stored_one_wins() -> None:
    memory = torch.zeros(4)
    file = shard_of({"a": f32(1, 2, 3, 4), "c": f32(7), "b": f32(8, 9)})
    told = Told()
    fill(PaperFeed(file), {"a": memory, "b": memory[1:3], "c": memory[1:2]}, told)
    assert memory.tolist() == [1, 8, 9, 4]
    assert told.loaded == ["a", "c", "b"], "shared memory is filled in file order, at the end"


def test_a_target_that_shares_memory_with_a_converted_one_is_filled_after_it() -> None:
    """The one tensor's bytes arrive before the other one is converted."""
    memory = torch.zeros(4)
    doubles = bytes(torch.arange(4, dtype=torch.float64).view(torch.uint8).tolist())
    file = shard_of({"a": ("F64", [4], doubles), "b": f32(8, 9)})
    fill(PaperFeed(file), {"a": memory, "b": memory[1:3]}, Told())
    assert memory.tolist() == [0, 8, 9, 3]


def test_a_stored_tensor_without_a_target_is_refused_when_strict() -> None:
    file = shard_of({f"w{n}": f32(n) for n in range(12)} | {"a": f32(1)})
    with pytest.raises(SourceError, match=r"/0 has w0, w1, w10, .* and 2 more, which the model"):
        fill(PaperFeed(file), {"a": torch.zeros(1)}, Told())


def test_a_target_that_is_not_stored_is_refused_when_strict() -> None:
    feed = PaperFeed(shard_of({"a": f32(1)}), shard_of({"b": f32(1)}))
    targets = {name: torch.zeros(1) for name in "abz"}
    with pytest.raises(SourceError, match=r"/0 \(one of 2 shards\) does not have z, which"):
        fill(feed, targets, Told())


def test_not_strict_fills_what_is_on_both_sides_and_reads_no_block_of_others() -> None:
    feed = PaperFeed(shard_of({"a": f32(1), "other": f32(*range(500)), "b": f32(2)}))
    targets = {"a": torch.zeros(1), "b": torch.zeros(1), "z": torch.full((1,), 5.0)}
    told = Told()
    assert fill(feed, targets, told, strict=False) == {"a", "b"}
    assert [target.item() for target in targets.values()] == [1, 2, 5]
    assert sum(one.stop - one.start for one in feed.passes[-1]) <= 4
    assert sorted(told.loaded) == ["a", "b"]


def test_a_tensor_larger_than_its_target_is_refused() -> None:
    with pytest.raises(SourceError, match=r"tensor a of /0, F32 \[3\], does not fit"):
        fill(PaperFeed(shard_of({"a": f32(1, 2, 3)})), {"a": torch.zeros(2)}, Told())


def test_a_target_without_memory_is_refused_before_anything_is_read() -> None:
    feed = PaperFeed(shard_of({"a": f32(1)}))
    with pytest.raises(ConfigError, match="the target a is on the meta device"):
        fill(feed, {"a": torch.zeros(1, device="meta")}, Told())
    assert feed.passes == []
