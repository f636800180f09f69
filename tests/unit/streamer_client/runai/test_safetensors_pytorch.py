from __future__ import annotations

import torch

from streamer_client.contract.safetensors.catalog import ShardCatalog, TensorEntry
from streamer_client.runai.safetensors_streamer.safetensors_pytorch import metadata_of

CATALOG = ShardCatalog(
    "/m",
    148,
    100,
    (
        TensorEntry("w", "BF16", (2, 3), 100, 112),
        TensorEntry("none", "F32", (0, 4), 112, 112),
        TensorEntry("packed", "F4", (4, 16), 112, 144),
        TensorEntry("s", "F32", (), 144, 148),
    ),
    {},
)


def test_offsets_count_from_the_end_of_the_header() -> None:
    w, none, packed, s = metadata_of(CATALOG, None)
    assert (w.name, w.shape, w.dtype, w.offsets.start, w.offsets.end) == (
        "w",
        [2, 3],
        "BF16",
        0,
        12,
    )
    assert (w.get_bytesize(), w.get_item_count(), w.get_element_size()) == (12, 6, 2)
    assert w.get_torch_dtype() is torch.bfloat16
    assert (none.get_bytesize(), none.get_item_count()) == (0, 0)
    assert (packed.get_bytesize(), packed.get_item_count()) == (32, 64)
    assert (s.shape, s.get_item_count()) == ([], 1)


def test_only_the_named_ones_are_told() -> None:
    assert [one.name for one in metadata_of(CATALOG, frozenset({"s", "w"}))] == ["w", "s"]
    assert repr(metadata_of(CATALOG, frozenset({"s"}))[0]) == "SafetensorMetadata('s', F32, [])"
