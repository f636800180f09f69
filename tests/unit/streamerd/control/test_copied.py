"""The bytes that clients say they copied are counted, and a lie harms nobody."""

from __future__ import annotations

from streamer_client.contract.limits import MAX_NUMBER
from streamer_client.contract.messages import Copied
from streamerd.control.sessions import CopiedTotals


def test_it_is_summed_by_where_it_came_from() -> None:
    totals = CopiedTotals()
    totals.add(Copied(10, 10))
    totals.add(Copied(7, 0, 3))
    totals.add(Copied(5))
    assert totals == CopiedTotals(22, 10, 3)


def test_no_sum_becomes_one_that_cannot_be_sent() -> None:
    totals = CopiedTotals()
    for _ in range(3):
        totals.add(Copied(MAX_NUMBER, MAX_NUMBER, MAX_NUMBER))
    assert totals == CopiedTotals(MAX_NUMBER, MAX_NUMBER, 0)


def test_parts_are_no_more_than_the_whole() -> None:
    totals = CopiedTotals()
    totals.add(Copied(10, 8, 8))
    assert totals == CopiedTotals(10, 8, 2)
