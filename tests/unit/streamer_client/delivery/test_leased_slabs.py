"""The slabs of a load are accepted whenever they come, and leased as long as they are mapped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.paper_connection import BLOCK, PaperConnection, shard, slab_fd

from streamer_client.contract.errors import DaemonUnavailable, SourceChanged
from streamer_client.contract.messages import Close, ReleaseShards
from streamer_client.delivery.leased_slabs import Lease, LeasedSlabs, compare_page
from streamer_client.delivery.slab import Slab
from streamer_client.storage.local_files import LocalFile

SHARDS = (shard("a", held=True), shard("b", held=True), shard("empty", blocks=0, held=True))


@pytest.fixture
def connection() -> PaperConnection:
    return PaperConnection()


def expecting(connection: PaperConnection) -> LeasedSlabs:
    """This is no fixture, because pytest would keep its descriptors open beyond the test."""
    made = LeasedSlabs(Lease(connection.real, 7))
    assert made.expect(SHARDS) == []
    return made


def fill(slabs: LeasedSlabs) -> None:
    slabs.take_in([(0, slab_fd(4 * BLOCK)), (1, slab_fd(4 * BLOCK))], SHARDS)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_an_empty_shard_has_no_slab_to_wait_for(connection: PaperConnection) -> None:
    slabs = expecting(connection)
    assert slabs.missing == {0, 1}
    fill(slabs)
    assert not slabs.missing
    with pytest.raises(ValueError, match="nothing to map"):
        slabs.mapping(2)


def test_slabs_that_overtake_the_answer_are_taken_in_after_it(connection: PaperConnection) -> None:
    slabs = LeasedSlabs(Lease(connection.real, 7))
    slabs.take_in([(1, slab_fd(4 * BLOCK))], ())
    slabs.take_in(slabs.expect(SHARDS), SHARDS)
    assert slabs.missing == {0}
    assert slabs[1] is not None


def test_early_slabs_of_an_open_that_failed_are_closed(connection: PaperConnection) -> None:
    slabs = LeasedSlabs(Lease(connection.real, 7))
    first, late = slab_fd(BLOCK), slab_fd(BLOCK)
    slabs.take_in([(0, first)], ())
    slabs.forget_early()
    slabs.take_in([(0, late)], ())
    assert not is_open(first)
    assert not is_open(late)


def test_a_second_slab_of_a_shard_is_closed(connection: PaperConnection) -> None:
    slabs = expecting(connection)
    fill(slabs)
    second = slab_fd(4 * BLOCK)
    slabs.take_in([(0, second)], SHARDS)
    assert not is_open(second)


def test_after_a_slab_that_is_too_small_the_others_are_closed(connection: PaperConnection) -> None:
    slabs = expecting(connection)
    short, other = slab_fd(BLOCK), slab_fd(4 * BLOCK)
    with pytest.raises(DaemonUnavailable, match="slab of 4096 bytes"):
        slabs.take_in([(0, short), (1, other)], SHARDS)
    assert not is_open(short)
    assert not is_open(other)


# --- leases ---------------------------------------------------------------------------------------


def test_without_views_the_load_ends_with_its_close(connection: PaperConnection) -> None:
    slabs = expecting(connection)
    fill(slabs)
    slabs.close()
    assert connection.sent == [Close(7)]


def test_the_last_view_ends_the_load(connection: PaperConnection) -> None:
    slabs = expecting(connection)
    fill(slabs)
    mapping = slabs.mapping(0)
    assert slabs.mapping(0) is mapping
    slabs.close()
    assert connection.sent == [ReleaseShards(7, (1, 2))]
    del mapping
    assert connection.sent[1:] == [Close(7)]


def test_leases_go_over_to_a_daemon_that_has_the_same_slabs(connection: PaperConnection) -> None:
    dead, alive = (LeasedSlabs(Lease(connection.real, number)) for number in (7, 8))
    same, other = slab_fd(4 * BLOCK), slab_fd(4 * BLOCK)
    dead.expect(SHARDS)
    alive.expect(SHARDS)
    dead.take_in([(0, os.dup(same)), (1, other)], SHARDS)
    alive.take_in([(0, same), (1, slab_fd(4 * BLOCK))], SHARDS)
    mappings = [dead.mapping(0), dead.mapping(1)]
    alive.reattach(dead, [True, True, True])
    assert alive.mapping(0) is mappings[0]
    assert alive.mapping(1) is not mappings[1]


def test_a_page_that_differs_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(bytes(2 * BLOCK))
    file = LocalFile(str(path), direct=False)
    slab = Slab(slab_fd(2 * BLOCK), 2 * BLOCK)
    compare_page(slab, file, BLOCK)
    with path.open("r+b") as changed:
        changed.seek(BLOCK)
        changed.write(b"x")
    with pytest.raises(SourceChanged, match="other bytes"):
        compare_page(slab, file, BLOCK)
    file.close()
