"""The table of the phases in which workers spend their time."""

from __future__ import annotations

from benchmarks.objects.phases import (
    FETCH,
    RECEIVE,
    REST,
    Block,
    Spent,
    Told,
    ahead,
    in_flight,
    lines,
    of_worker,
    summed,
)


def block(place: int, began_s: float, ended_s: float, uri: str = "s3://b/a") -> Block:
    return Block(began_s, ended_s, uri, place * 8, place * 8 + 8)


def test_workers_are_summed_up_and_the_rest_of_a_block_is_a_phase() -> None:
    one = Told({FETCH: Spent(2, 3.0, 2.0), RECEIVE: Spent(9, 1.0, 0.5)}, process_cpu_s=4.0)
    other = Told({FETCH: Spent(1, 1.0, 1.0)}, process_cpu_s=1.0)

    total = summed([one, other])

    assert total.phases[FETCH] == Spent(3, 4.0, 3.0)
    assert total.phases[REST] == Spent(3, 3.0, 2.5)
    assert total.process_cpu_s == 5.0


def test_a_worker_tells_block_by_block_and_all_that_its_process_used_until_then() -> None:
    first = Told({FETCH: Spent(1, 3.0, 2.0)}, [block(0, 0.0, 1.0)], process_cpu_s=4.0)
    later = Told({FETCH: Spent(1, 1.0, 0.5)}, [block(1, 0.0, 2.0)], process_cpu_s=6.0)

    whole = of_worker([first, later])

    assert whole.phases == {FETCH: Spent(2, 4.0, 2.5)}
    assert whole.blocks == [*first.blocks, *later.blocks]
    assert whole.process_cpu_s == 6.0


def test_blocks_in_flight_over_the_load() -> None:
    blocks = [block(0, 0.0, 4.0), block(1, 0.0, 2.0), block(2, 3.0, 4.0)]

    assert in_flight(blocks, moments=4) == [2, 2, 1, 2]


def test_blocks_that_arrive_in_order_are_never_ahead() -> None:
    assert ahead([block(place, 0.0, place + 1.0) for place in range(4)]) == [0, 0, 0, 0]


def test_blocks_are_ahead_of_the_first_one_that_is_missing() -> None:
    arrivals = [block(2, 0.0, 1.0), block(1, 0.0, 2.0), block(0, 0.0, 3.0), block(3, 0.0, 4.0)]

    assert ahead(arrivals) == [2, 1, 0, 0]


def test_objects_are_wanted_one_after_the_other() -> None:
    second = block(0, 0.0, 1.0, "s3://b/b")

    assert ahead([second, block(0, 0.0, 2.0), block(1, 0.0, 3.0)]) == [2, 0, 0]


def test_a_load_is_told_for_each_gb() -> None:
    half_a_gb = Block(0.0, 2.0, "s3://b/a", 0, 500_000_000)
    told = Told({FETCH: Spent(1, 2.0, 1.0), RECEIVE: Spent(5, 1.5, 0.25)}, [half_a_gb], 1.5)

    text = list(lines(summed([told]), connections=4))

    assert "1 blocks in 2.00 s, 0.25 GB/s" in text[0]
    assert "3.000 s for each GB" in text[0]
    assert text[2].split() == ["receive", "5", "0.500", "2.500"]
    assert "of 4: 1.0" in text[-2]
