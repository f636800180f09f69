"""Bytes a second, by a clock that the test sets."""

from __future__ import annotations

import pytest

from streamerd.reading.bandwidth import WINDOW_S, Rate


def test_nothing_came_yet() -> None:
    assert Rate().bytes_per_s(5.0) == 0


def test_a_young_load_is_measured_over_its_own_age() -> None:
    rate = Rate()
    rate.add(10.0, 100)
    rate.add(11.0, 100)
    assert rate.bytes_per_s(12.0) == pytest.approx(100)


def test_the_first_instant_promises_no_infinite_speed() -> None:
    rate = Rate()
    rate.add(10.0, 100)
    assert rate.bytes_per_s(10.0) <= 1000


def test_what_is_older_than_the_window_counts_no_more() -> None:
    rate = Rate()
    for second in range(20):
        rate.add(float(second), 50)
    assert rate.bytes_per_s(19.0) == pytest.approx(50, rel=0.25)
    rate.add(19.5, 0)
    assert rate.bytes_per_s(19.0 + WINDOW_S) < 50
    assert rate.bytes_per_s(100.0) == 0


def test_after_a_pause_the_age_begins_anew() -> None:
    rate = Rate()
    rate.add(0.0, 1000)
    assert rate.bytes_per_s(100.0) == 0
    rate.add(100.0, 100)
    assert rate.bytes_per_s(101.0) == pytest.approx(100)
