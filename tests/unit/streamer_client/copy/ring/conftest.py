"""Fixtures: both kinds of ring, on machines without a GPU."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from tests.support.compiled_ring import CompiledRing
from tests.support.rings import LazyDevice, stored_in_memory, wait_until_freed

from streamer_client.copy.ring.lanes import Ring
from streamer_client.copy.ring.torch_ring import TorchRing

DATA = random.Random(11).randbytes(200_000)

MakeRing = Callable[[int, int], Ring]


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> CompiledRing:
    return CompiledRing(tmp_path_factory.mktemp("ring"))


@pytest.fixture
def compiled(libraries: CompiledRing) -> Iterator[CompiledRing]:
    """The compiled ring over the fake driver; a test fails if it does not give everything back."""
    libraries.reset()
    yield libraries
    libraries.fail("")
    wait_until_freed()
    assert libraries.fake.fake_pinned() == 0
    assert libraries.fake.fake_living() == 0


@pytest.fixture(params=["compiled", "torch"])
def make_ring(request: pytest.FixtureRequest) -> MakeRing:
    """Makes rings of `(slots, slot_bytes)`."""
    if request.param == "compiled":
        compiled: CompiledRing = request.getfixturevalue("compiled")
        return compiled.ring
    return lambda slots, slot_bytes: TorchRing(LazyDevice(), slots, slot_bytes)


@pytest.fixture
def shard_fd() -> Iterator[int]:
    """A file with `DATA`."""
    with stored_in_memory(DATA) as fd:
        yield fd
