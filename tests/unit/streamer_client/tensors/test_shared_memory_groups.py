from __future__ import annotations

import torch

from streamer_client.tensors.shared_memory_groups import sharing_groups


def test_separate_tensors_share_nothing() -> None:
    memory = torch.zeros(20)
    assert sharing_groups({"a": memory[:10], "b": memory[10:], "c": torch.zeros(3)}) == {}


def test_chains_of_overlaps_are_one_group() -> None:
    memory, other = torch.zeros(30), torch.zeros(4)
    targets = {
        "a": memory[:12],
        "b": memory[10:20],
        "c": memory[18:],
        "d": other,
        "e": other.view(2, 2).t(),
        "f": torch.zeros(0),
    }
    groups = sharing_groups(targets)
    assert groups["a"] == groups["b"] == groups["c"]
    assert groups["d"] == groups["e"] != groups["a"]
    assert "f" not in groups
