"""What a rank will cut out of coming layers, told by what it cut out of earlier ones.

The layers of a model are alike: a rank takes the same slice of the same weight in each. So what was
cut out of `layers.3.mlp.up_proj.weight` foretells the cuts of `layers.4.mlp.up_proj.weight`, if
that has the same dtype and shape. Pure: a wrong guess costs whoever acts on it time, never a wrong
byte, since cuts are compared when they are asked for.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from streamer_client.contract.catalog import TensorEntry
from streamer_client.copy.cut import Cut

_FIRST_NUMBER: Final = re.compile(r"(?<![0-9A-Za-z])[0-9]+(?![0-9A-Za-z])")
MOST_CUTS: Final = 64
"""Of one tensor. A loader that cuts a tensor into more, as one expert after the other, is not
foretold beyond these."""


class Kind(NamedTuple):
    """Tensors that are alike in all layers: the name without its layer, dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def kind_of(entry: TensorEntry) -> Kind:
    """The kind of a tensor.

    The first number in a name that stands alone is its layer's; further ones, such as an expert's,
    tell kinds apart.
    """
    return Kind(_FIRST_NUMBER.sub("{}", entry.name, count=1), entry.dtype, tuple(entry.shape))


class Foretelling:
    """What was cut out of each kind of tensor last."""

    def __init__(self) -> None:
        self._cuts: dict[Kind, tuple[str, list[Cut]]] = {}

    def was_cut(self, entry: TensorEntry, cut: Cut) -> None:
        """A rank asked for this cut of this tensor; its offset counts from the tensor's start."""
        kind = kind_of(entry)
        name, cuts = self._cuts.get(kind, ("", []))
        if name != entry.name:
            cuts = []
        if cut not in cuts and len(cuts) < MOST_CUTS:
            cuts.append(cut)
        self._cuts[kind] = entry.name, cuts

    def was_left(self, entry: TensorEntry) -> None:
        """A rank was handed this tensor, and the next one, and asked for nothing of it."""
        kind = kind_of(entry)
        if self._cuts.get(kind, ("", []))[0] != entry.name:
            self._cuts[kind] = entry.name, []

    def guess(self, entry: TensorEntry) -> tuple[Cut, ...] | None:
        """What will be cut out of this tensor; None where nothing tells."""
        found = self._cuts.get(kind_of(entry))
        return None if found is None else tuple(found[1])
