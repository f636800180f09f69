"""Predicts what a rank will cut out of coming layers from what it cut out of earlier ones.

The layers of a model are alike: a rank takes the same slice of the same weight in each. So the cuts
of `layers.3.mlp.up_proj.weight` foretell the cuts of `layers.4.mlp.up_proj.weight`, if both have
the same dtype and shape. For the first tensor of each kind, the rank's place among the ranks
foretells a cut. Pure. A wrong guess costs time, but never yields a wrong byte, since cuts are
compared when they are asked for.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from streamer_client.contract.safetensors.catalog import TensorEntry
from streamer_client.copy.cut import Cut, Dimension

_FIRST_NUMBER: Final = re.compile(r"(?<![0-9A-Za-z])[0-9]+(?![0-9A-Za-z])")
MOST_CUTS: Final = 64
"""How many cuts of one tensor are foretold. Some loaders make more cuts, one expert after the
other; the further ones are not foretold."""
MATRIX_DIMENSIONS: Final = 2


_BY_OUTPUTS: Final = re.compile(r"(?:embed_tokens|lm_head|\.(?:[qkv]|gate|up)_proj)\.weight$")
"""Weights of which a rank takes a part of the first dimension, as most models name them."""
_BY_INPUTS: Final = re.compile(r"\.(?:o|down)_proj\.weight$")
"""Weights of which a rank takes a part of the second dimension, as ranks sum up their outputs."""
_EXPERT: Final = re.compile(r"experts?\b")
"""Marks the name of a weight that a rank takes whole or not at all if experts are shared out."""


class RankPlace(NamedTuple):
    """The number of a rank, and of how many ranks, each of which takes a part of most tensors."""

    rank: int
    ranks: int


class Kind(NamedTuple):
    """Tensors that are alike in all layers: their name without the layer, dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def kind_of(entry: TensorEntry) -> Kind:
    """The kind of a tensor.

    The first number that stands alone in a name is its layer's. Further numbers, such as an
    expert's, distinguish kinds.
    """
    return Kind(_without_layer(entry.name), entry.dtype, tuple(entry.shape))


@lru_cache(maxsize=1 << 12)
def _without_layer(name: str) -> str:
    return _FIRST_NUMBER.sub("{}", name, count=1)


def likely_cut(entry: TensorEntry, place: RankPlace) -> Cut | None:
    """The equal share of a rank along the dimension that the name suggests; None if none does."""
    size_bytes = entry.stop - entry.start
    if len(entry.shape) != MATRIX_DIMENSIONS or not size_bytes or _EXPERT.search(entry.name):
        return None
    rows, columns = entry.shape
    if _BY_OUTPUTS.search(entry.name) and rows % place.ranks == 0:
        share = size_bytes // place.ranks
        return Cut(place.rank * share, share, ())
    if _BY_INPUTS.search(entry.name) and columns % place.ranks == 0:
        row_bytes = size_bytes // rows
        share = row_bytes // place.ranks
        return Cut(place.rank * share, share, (Dimension(rows, row_bytes),))
    return None


class _Latest(NamedTuple):
    """The cuts of the latest tensor of a kind."""

    number: int
    cuts: list[Cut]


class Foretelling:
    """The latest cuts of each kind of tensor.

    Args:
        place: place of the rank that cuts; None if it tells nothing.
    """

    def __init__(self, place: RankPlace | None = None) -> None:
        self._place = place
        self._cuts: dict[Kind, _Latest] = {}
        self._assumed: dict[Kind, str] = {}
        """The one tensor of each kind whose cut was guessed by the rank's place."""

    def was_cut(self, number: int, entry: TensorEntry, cut: Cut) -> None:
        """Note that a rank asked for this cut; its offset counts from the tensor's start.

        Tensors are numbered in the order in which they are handed out. Loaders may cut them in
        another order; then the cuts of the tensor with the highest number count.
        """
        kind = kind_of(entry)
        latest = self._cuts.get(kind)
        if latest is None or latest.number < number:
            latest = self._cuts[kind] = _Latest(number, [])
        if latest.number == number and cut not in latest.cuts and len(latest.cuts) < MOST_CUTS:
            latest.cuts.append(cut)

    def was_left(self, number: int, entry: TensorEntry) -> None:
        """Note that a rank dropped this tensor; if it cut nothing out of it, that counts, too."""
        kind = kind_of(entry)
        latest = self._cuts.get(kind)
        if latest is None or latest.number < number:
            self._cuts[kind] = _Latest(number, [])

    def guess(self, entry: TensorEntry) -> tuple[Cut, ...] | None:
        """The cuts that this tensor will likely get; None if nothing foretells them."""
        kind = kind_of(entry)
        found = self._cuts.get(kind)
        if found is not None:
            return tuple(found.cuts)
        if self._place is None or self._assumed.setdefault(kind, entry.name) != entry.name:
            return None
        cut = likely_cut(entry, self._place)
        return None if cut is None else (cut,)
