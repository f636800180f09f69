"""The server of the benchmark that answers requests later."""

from __future__ import annotations

from benchmarks.objects.delay import DelayLine


def test_each_waits_for_the_whole_delay_and_all_wait_at_the_same_time() -> None:
    line: DelayLine[str] = DelayLine(0.05)
    line.add("first", 10.0)
    line.add("second", 10.02)

    assert line.due(10.049) == []
    assert line.due(10.051) == ["first"]
    assert line.due(10.08) == ["second"]


def test_what_is_due_is_let_go_once_and_in_order() -> None:
    line: DelayLine[str] = DelayLine(0.05)
    for name in ("first", "second"):
        line.add(name, 10.0)

    assert line.due(11.0) == ["first", "second"]
    assert line.due(11.0) == []


def test_the_wait_is_that_of_the_next_one() -> None:
    line: DelayLine[str] = DelayLine(0.5)
    assert line.wait_s(10.0) is None

    line.add("first", 10.0)
    line.add("second", 10.25)

    assert line.wait_s(10.25) == 0.25
    assert line.wait_s(11.0) == 0.0
