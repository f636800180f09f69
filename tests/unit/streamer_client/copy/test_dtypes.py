from __future__ import annotations

import pytest
import torch
from safetensors.torch import _TYPES

from streamer_client.contract.safetensors.catalog import DTYPE_BITS
from streamer_client.copy.dtypes import torch_form


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_bytes_of_the_form_are_the_stored_bytes(dtype: str) -> None:
    form, shape = torch_form(dtype, (3, 8))
    assert torch.empty(shape, dtype=form).nbytes == 24 * DTYPE_BITS[dtype] // 8


@pytest.mark.parametrize("dtype", sorted(_TYPES))
def test_as_the_safetensors_package_says(dtype: str) -> None:
    assert torch_form(dtype, (2, 4)) == (_TYPES[dtype], (2, 4))


def test_kinds_that_the_package_reads_by_its_rust_side() -> None:
    assert torch_form("F8_E8M0", (5,)) == (torch.float8_e8m0fnu, (5,))
    assert torch_form("F4", (3, 2)) == (torch.float4_e2m1fn_x2, (3, 1))


@pytest.mark.parametrize(
    ("dtype", "shape", "packed"),
    [
        ("F4", (4, 1), (2,)),
        ("F6_E2M3", (2, 4), (2, 3)),
        ("F6_E3M2", (4, 2), (6,)),
        ("F6_E3M2", (0,), (0,)),
    ],
)
def test_what_torch_cannot_express_is_packed_bytes(
    dtype: str, shape: tuple[int, ...], packed: tuple[int, ...]
) -> None:
    assert torch_form(dtype, shape) == (torch.uint8, packed)


def test_scalar() -> None:
    assert torch_form("F64", ()) == (torch.float64, ())
