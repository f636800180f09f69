"""The tables and ratios of the object stores' benchmark."""

from __future__ import annotations

import pytest
from benchmarks.objects.load import Measured
from benchmarks.objects.report import DELAY, PLAIN, Row, comparisons, delays, table

GB = 1_000_000_000


def measured(seconds: float, first_get_s: float = 0.0, first_tensor_s: float = 0.0) -> Measured:
    return Measured(
        seconds=seconds,
        cpu_s=1.0,
        server_cpu_s=0.5,
        gets=10,
        heads=2,
        listings=1,
        refused=0,
        body_bytes=2 * GB,
        again_bytes=GB // 2,
        first_get_s=first_get_s,
        first_tensor_s=first_tensor_s,
    )


def row(link: str, way: str, *runs: Measured, checkpoint: str = "1") -> Row:
    return Row(checkpoint, link, way, 2 * GB, list(runs))


def test_the_table_has_medians_and_each_time() -> None:
    text = list(table([row(PLAIN, "bare", measured(1.0), measured(9.0), measured(2.0))]))

    assert " ".join(text[1].split()).startswith("1 bare 2.00 1.00 1.00 0.50 10 2 1 0 1.000")
    assert text[1].endswith("0.250   1.00 9.00 2.00")


def test_from_the_first_byte_on_a_delay_costs_nothing_where_the_rate_is_the_same() -> None:
    rows = [
        row(PLAIN, "streamerd", measured(1.1, first_get_s=0.1)),
        row(DELAY, "streamerd", measured(1.15, first_get_s=0.1, first_tensor_s=0.2)),
    ]

    text = list(delays(rows, 0.05))

    assert text[0].startswith("each request answered 50 ms later")
    assert text[2].split() == ["1", "streamerd", "3.0", "4.0", "2.00", "2.00", "1.00"]


def test_who_has_all_tensors_at_once_has_no_first_one() -> None:
    rows = [row(link, "streamerd prefetch", measured(1.0, 0.1, 1.0)) for link in (PLAIN, DELAY)]

    assert list(delays(rows, 0.05))[2].split()[4] == "-"


def test_nothing_is_said_of_delays_where_there_was_none() -> None:
    assert list(delays([row(PLAIN, "streamerd", measured(1.0))], 0.0)) == []


def test_each_yardstick_is_told_by_name_and_only_within_one_link() -> None:
    rows = [
        row(PLAIN, "streamerd prefetch", measured(2.0)),
        row(PLAIN, "bare processes, huge", measured(1.0)),
        row("TLS", "bare processes, huge", measured(4.0)),
        row("TLS", "streamerd prefetch", measured(2.0)),
    ]

    ratios = dict(comparisons(rows))

    told = "streamerd prefetch against bare processes, huge (wanted 0.85 x)"
    assert ratios == {
        f"1 objects, {told}": pytest.approx(0.5),
        f"1 objects over TLS, {told}": pytest.approx(2.0),
    }
