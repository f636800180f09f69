"""`load_into`: targets whose form differs from the stored tensor's, shared memory, and names
without a counterpart.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from streamer_client.client import Client, direct_client
from streamer_client.contract.errors import ConfigError, SourceError

STORED = {
    "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.arange(6, dtype=torch.bfloat16),
    "c": torch.tensor(3.5),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(STORED, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def client() -> Iterator[Client]:
    with direct_client() as opened:
        yield opened


def fitting() -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in STORED.items()}


def load(client: Client, source: Path, targets: dict[str, torch.Tensor], **options: object) -> None:
    with client.open(source, hold=False) as checkpoint:
        checkpoint.load_into(targets, **options)  # type: ignore[arg-type]


def test_parameters_that_require_gradients(client: Client, source: Path) -> None:
    targets = {name: torch.nn.Parameter(tensor) for name, tensor in fitting().items()}
    load(client, source, dict(targets))
    for name, target in targets.items():
        assert target.requires_grad
        assert torch.equal(target, STORED[name])


def test_other_dtype_is_converted_and_told(client: Client, source: Path) -> None:
    targets = fitting() | {"a": torch.zeros(3, 4, dtype=torch.float64)}
    told: list[tuple[str, str, torch.dtype]] = []
    load(
        client,
        source,
        targets,
        on_mismatch=lambda name, entry, target: told.append((name, entry.dtype, target.dtype)),
    )
    assert torch.equal(targets["a"], STORED["a"].double())
    assert told == [("a", "F32", torch.float64)]


def test_larger_target_gets_its_leading_corner(client: Client, source: Path) -> None:
    targets = fitting() | {"a": torch.full((5, 6), -1.0)}
    load(client, source, targets)
    assert torch.equal(targets["a"][:3, :4], STORED["a"])
    assert torch.all(targets["a"][3:] == -1)
    assert torch.all(targets["a"][:, 4:] == -1)


def test_non_contiguous_target(client: Client, source: Path) -> None:
    whole = torch.zeros(4, 3)
    told: list[str] = []
    load(
        client,
        source,
        fitting() | {"a": whole.t()},
        on_mismatch=lambda name, _entry, _target: told.append(name),
    )
    assert torch.equal(whole.t(), STORED["a"])
    assert not told


@pytest.mark.parametrize("shape", [(2, 4), (12,), (3, 5, 4), ()])
def test_target_that_does_not_fit(client: Client, source: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(SourceError, match=r"tensor a of .*model\.safetensors.*does not fit"):
        load(client, source, fitting() | {"a": torch.zeros(shape)})


def test_missing_and_unexpected_names(client: Client, source: Path) -> None:
    with pytest.raises(SourceError, match=r"does not have x, y, which the model needs"):
        load(client, source, fitting() | {"x": torch.zeros(1), "y": torch.zeros(1)})
    with pytest.raises(SourceError, match=r"has b, c, which the model does not"):
        load(client, source, {"a": torch.zeros(3, 4)})


def test_without_strict_only_common_names(client: Client, source: Path) -> None:
    targets = {"b": torch.zeros(6, dtype=torch.bfloat16), "x": torch.full((2,), 7.0)}
    with client.open(source, hold=False) as checkpoint:
        assert checkpoint.load_into(targets, strict=False) == {"b"}
    assert torch.equal(targets["b"], STORED["b"])
    assert torch.all(targets["x"] == 7)


def test_meta_target_is_refused(client: Client, source: Path) -> None:
    with pytest.raises(ConfigError, match="target a is on the meta device"):
        load(client, source, fitting() | {"a": torch.zeros(3, 4, device="meta")})


def test_targets_that_share_memory_end_as_in_file_order(client: Client, tmp_path: Path) -> None:
    stored = {"first": torch.full((1000,), 1.0), "second": torch.full((1000,), 2.0)}
    save_file(stored, tmp_path / "tied.safetensors")
    memory = torch.zeros(1500)
    load(client, tmp_path, {"first": memory[:1000], "second": memory[500:]})
    assert torch.all(memory[:500] == 1)
    assert torch.all(memory[500:] == 2)


def test_same_tensor_under_two_names(client: Client, tmp_path: Path) -> None:
    save_file({"one": torch.ones(9), "two": torch.ones(9) * 2}, tmp_path / "tied.safetensors")
    shared = torch.zeros(9)
    load(client, tmp_path, {"one": shared, "two": shared})
    assert torch.all(shared == 2)


def test_progress_counts_bytes(client: Client, source: Path) -> None:
    told: list[tuple[int, int]] = []
    with client.open(source, progress=lambda done, total: told.append((done, total))) as checkpoint:
        checkpoint.load_into(fitting())
        stats = checkpoint.stats
    size = (source / "model.safetensors").stat().st_size
    data = sum(tensor.numel() * tensor.element_size() for tensor in STORED.values())
    assert [total for _, total in told] == [size] * 3
    assert told[-1][0] == data == stats.loaded_bytes
    assert (stats.total_bytes, stats.mode, stats.tensors) == (size, "direct", 3)
