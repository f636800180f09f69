"""The page of a watch fits the screen, and always shows what matters."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from tests.support.sample_status import GIB, busy_body, empty_body, lease, shard

from streamer_client.contract.status import StatusDocument, parse_status
from streamerd.cli.status_view import rate_text
from streamerd.cli.watch.page import watch_line, watch_page
from streamerd.cli.watch.rates import NodeRates, Rates

RATES = NodeRates(2.5e9, 850e3)


def _page(
    body: dict[str, Any],
    width: int = 80,
    height: int = 24,
    note: str = "",
    rates: NodeRates = RATES,
) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, highlight=False)
    with console.capture() as captured:
        console.print(watch_page(parse_status(body), rates, height, note))
    return [line.rstrip() for line in captured.get().splitlines()]


def _model(name: str, shards: int, **more: Any) -> dict[str, Any]:
    of = more.pop("of", shards)
    files = [f"/models/{name}/model-{n:05}-of-{of:05}.safetensors" for n in range(1, shards + 1)]
    state = more.pop("state", "resident")
    return {
        "uri": f"/models/{name}",
        "shards": [shard(file, GIB, more.pop("resident", GIB), state, **more) for file in files],
    }


def _with(*sources: dict[str, Any]) -> dict[str, Any]:
    return busy_body() | {"sources": list(sources)}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 24), (80, 40), (120, 60)])
@pytest.mark.parametrize("shards", [1, 20, 60])
def test_memory_and_totals_are_always_in_view(width: int, height: int, shards: int) -> None:
    lines = _page(_with(_model("big", shards), _model("small", 2)), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[1].startswith("memory ")
    assert lines[-2].startswith("totals ")
    assert any(line.startswith("now     read 2.50 GB/s, served 850 KB/s") for line in lines)


def test_a_model_of_many_shards_is_a_row_and_the_small_one_is_shown_whole() -> None:
    lines = _page(_with(_model("big", 60), _model("small", 2)))
    (row,) = (line for line in lines if line.startswith("/models/big"))
    assert row.split() == ["/models/big", "60", "60.0", "GiB", "100%"]
    assert sum("-of-00002" in line for line in lines) == 2
    assert not any("-of-00060" in line for line in lines)


def test_where_there_is_room_every_shard_is_shown() -> None:
    lines = _page(_with(_model("big", 60)), height=80)
    assert sum("-of-00060" in line for line in lines) == 60


def test_missing_shards_are_counted_by_what_the_files_are_called() -> None:
    lines = _page(_with(_model("big", 58, of=60), _model("other", 30)))
    assert any("/models/big    58 of 60 " in line for line in lines)


def test_a_row_tells_rate_eta_and_what_was_consumed() -> None:
    leases = [lease(811, "rank 0", GIB // 4)]
    moving = _model(
        "big", 30, state="streaming", resident=GIB // 2, bytes_per_s=1e8, eta_s=5.4, leases=leases
    )
    lines = _page(_with(moving))
    (row,) = (line for line in lines if line.startswith("/models/big"))
    assert row.split()[1:] == ["0", "of", "30", "30.0", "GiB", "98%", "3.00", "GB/s", "0s", "25%"]
    assert any(line.startswith("now ") and line.endswith("all there in 0s") for line in lines)


def test_what_has_no_room_is_counted_and_what_moves_comes_first() -> None:
    many = [_model(f"m{n:02}", 3) for n in range(40)]
    lines = _page(_with(*many, _model("late", 3, state="streaming", bytes_per_s=1e6)))
    assert len(lines) <= 24
    rows = [line for line in lines if line.startswith("/models/")]
    assert rows[0].startswith("/models/late")
    (more,) = (line for line in lines if line.startswith("and "))
    assert more == f"and {41 - len(rows)} more"


def test_a_note_takes_the_place_of_the_rates() -> None:
    lines = _page(busy_body(), height=60, note="the daemon at /run/s has stopped")
    assert "the daemon at /run/s has stopped" in lines
    assert not any(line.startswith("now ") for line in lines)


def test_a_terminal_that_only_goes_forward_gets_a_line() -> None:
    line = watch_line(parse_status(busy_body()), RATES)
    assert line.startswith("40.0 GiB of 64.0 GiB (62%); read 2.50 GB/s, served 850 KB/s; ")
    assert "\n" not in line
    assert "/models/llama-tp2 65%, ETA 2m 10s" in line or "ETA" in line


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, "0 B/s"),
        (999.4, "999 B/s"),
        (850e3, "850 KB/s"),
        (12.34e6, "12.3 MB/s"),
        (3.21e9, "3.21 GB/s"),
    ],
)
def test_a_rate_has_the_unit_that_has_digits(rate: float, text: str) -> None:
    assert rate_text(rate) == text


# --- rates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(20, 5), (5, 2), (1, 1)])
@pytest.mark.parametrize("body", [empty_body(), busy_body()])
def test_a_tiny_screen_is_no_error(body: dict[str, Any], width: int, height: int) -> None:
    assert max(map(len, _page(body, width, height))) <= width


def test_a_daemon_of_the_same_pid_counts_from_zero_again() -> None:
    """In a container every daemon has the same pid."""
    rates, before, after = Rates(), empty_body(), empty_body()
    before["totals"]["served_bytes"], before["uptime_s"] = 10**9, 100.0
    after["totals"]["served_bytes"], after["uptime_s"] = 0, 1.0
    rates.see(parse_status(before), 1.0)
    assert rates.see(parse_status(after), 2.0) == NodeRates()
    after["totals"]["served_bytes"], after["uptime_s"] = 500, 2.0
    assert rates.see(parse_status(after), 3.0).served == 500


def _status(read: int, served: int, pid: int = 1) -> StatusDocument:
    body = empty_body() | {"pid": pid}
    body["totals"] |= {"source_read_bytes": read, "served_bytes": served}
    return parse_status(body)


def test_rates_are_means_over_some_seconds_and_begin_anew_with_a_new_daemon() -> None:
    rates = Rates()
    assert rates.see(_status(0, 0), 0.0) == NodeRates()
    assert rates.see(_status(100, 400), 2.0) == NodeRates(50.0, 200.0)
    for second in range(3, 20):
        last = rates.see(_status(100, 400), float(second))
    assert last == NodeRates(0.0, 0.0)
    assert rates.see(_status(50, 50, pid=2), 21.0) == NodeRates()


def test_the_rate_of_a_model_counts_shards_that_are_complete_meanwhile() -> None:
    rates, model = Rates(), _model("big", 60)
    slow = {"state": "streaming", "resident_bytes": 0, "bytes_per_s": 1000.0}
    model["shards"] = [each | slow for each in model["shards"]]
    rates.see(parse_status(_with(model)), 0.0)
    model["shards"][:30] = _model("big", 30, of=60)["shards"]
    body = _with(model, _model("small", 2))
    lines = _page(body, rates=rates.see(parse_status(body), 3.0))
    (row,) = (line for line in lines if line.startswith("/models/big"))
    assert row.split()[-4:] == ["50%", "10.7", "GB/s", "3s"]
