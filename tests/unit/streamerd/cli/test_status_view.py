"""The exact output of `streamerctl status`, at two widths and without colour."""

import io
from typing import Any

import pytest
from rich.console import Console
from tests.support.sample_status import GIB, busy_body, empty_body, lease, shard

from streamer_client.contract.errors import ProtocolMismatch
from streamer_client.contract.status import parse_status
from streamerd.cli.status_view import duration, percent, status_view


def _text(body: dict[str, Any], width: int, *, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    console.print(status_view(parse_status(body)))
    written = raw.getvalue().decode(encoding)
    return "\n".join(line.rstrip() for line in written.splitlines())


def test_everything_at_80_columns() -> None:
    assert (
        _text(busy_body(), 80)
        == """\
streamerd 0.1.0  pid 4242  up 2h 03m  /run/streamerd/control.sock

memory  ███████████▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓░░░░░░░░░░░░░░░░  40.0 GiB of 64.0 GiB (62%)
        █ leased 16.0 GiB, ▓ idle 24.0 GiB, ░ free 24.0 GiB; pinned 24.0 GiB

/models/llama-tp2  3 shards, 20.0 GiB, 65% resident
  shard                   state          size  loaded       rate     ETA  leases
  model-rank-0-part-0.s…  resident   8.00 GiB    100%                          1
  model-rank-1-part-0.s…  streaming  8.00 GiB     62%  3.21 GB/s  1m 01s       2
  model-rank-1-part-1.s…  queued     4.00 GiB      0%
  leased by  pid 811  rank 0   1 shard, 100% consumed
             pid 812  rank 1   1 shard, 25% consumed
             pid 990  warm-up  1 shard, 0% consumed

s3://bucket/mixtral  2 shards, 48.0 GiB, 56% resident
  shard          state                size  loaded  rate  ETA  leases
  a.safetensors  resident pinned  24.0 GiB    100%
  b.safetensors  failed           24.0 GiB     12%
  b.safetensors: 403 for s3://bucket/mixtral/b.safetensors; check the
  credentials

waiting for memory  limit 64.0 GiB, leased 16.0 GiB, pinned 24.0 GiB
  pid 1203  rank 0  needs 16.0 MiB

totals  read 43.0 GiB in 5,504 requests, served 81.0 GiB, evicted 3.00 GiB
        block hits 10,368, misses 5,504; retries 2, errors 1, worker restarts 0"""
    )


def test_everything_at_120_columns() -> None:
    assert (
        _text(busy_body(), 120)
        == """\
streamerd 0.1.0  pid 4242  up 2h 03m  /run/streamerd/control.sock

memory  █████████████████████▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓\
▓▓▓▓░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  40.0 GiB of 64.0 GiB (62%)
        █ leased 16.0 GiB, ▓ idle 24.0 GiB, ░ free 24.0 GiB; pinned 24.0 GiB

/models/llama-tp2  3 shards, 20.0 GiB, 65% resident
  shard                            state          size  loaded       rate     ETA  leases
  model-rank-0-part-0.safetensors  resident   8.00 GiB    100%                          1
  model-rank-1-part-0.safetensors  streaming  8.00 GiB     62%  3.21 GB/s  1m 01s       2
  model-rank-1-part-1.safetensors  queued     4.00 GiB      0%
  leased by  pid 811  rank 0   1 shard, 100% consumed
             pid 812  rank 1   1 shard, 25% consumed
             pid 990  warm-up  1 shard, 0% consumed

s3://bucket/mixtral  2 shards, 48.0 GiB, 56% resident
  shard          state                size  loaded  rate  ETA  leases
  a.safetensors  resident pinned  24.0 GiB    100%
  b.safetensors  failed           24.0 GiB     12%
  b.safetensors: 403 for s3://bucket/mixtral/b.safetensors; check the credentials

waiting for memory  limit 64.0 GiB, leased 16.0 GiB, pinned 24.0 GiB
  pid 1203  rank 0  needs 16.0 MiB

totals  read 43.0 GiB in 5,504 requests, served 81.0 GiB, evicted 3.00 GiB
        block hits 10,368, misses 5,504; retries 2, errors 1, worker restarts 0"""
    )


def test_a_daemon_that_has_just_begun() -> None:
    assert (
        _text(empty_body(), 80)
        == """\
streamerd 0.1.0  pid 4242  up 3s  /run/streamerd/control.sock

memory  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  0 B of 64.0 GiB (0%)
        █ leased 0 B, ▓ idle 0 B, ░ free 64.0 GiB; pinned 0 B

nothing in memory yet

totals  read 0 B in 0 requests, served 0 B, evicted 0 B
        block hits 0, misses 0; retries 0, errors 0, worker restarts 0"""
    )


def test_a_fleet_is_told_beneath_the_totals() -> None:
    fleet = {
        "name": "gpus", "me": "10.0.0.4:7270", "members": ["10.0.0.4:7270", "10.0.0.5:7270"],
        "serving": True, "restarts": 0, "peer_bytes": GIB, "store_bytes": 0, "store_reads": {},
        "sent_bytes": 2 * GIB, "answers": {}, "connections": 0,
    }  # fmt: skip
    *_, last = _text(empty_body() | {"fleet": fleet}, 80).splitlines()
    assert last == "fleet   2 members; 1.00 GiB from other nodes, 2.00 GiB to them"


def test_a_terminal_without_unicode_gets_ascii() -> None:
    text = _text(empty_body() | {"memory": busy_body()["memory"]}, 80, encoding="ascii")
    assert "memory  ###########=================................  40.0 GiB" in text


@pytest.mark.parametrize("width", [40, 60, 79])
def test_nothing_is_wider_than_the_screen(width: int) -> None:
    assert max(len(line) for line in _text(busy_body(), width).splitlines()) <= width


def test_leases_are_told_by_process_over_all_shards_of_a_source() -> None:
    body = busy_body()
    body["sources"] = [
        {
            "uri": "/m",
            "shards": [
                shard("/m/a", 3 * GIB, 3 * GIB, "resident", leases=[lease(7, "rank 0", 3 * GIB)]),
                shard("/m/b", GIB, GIB, "resident", leases=[lease(7, "rank 0", 0)]),
            ],
        }
    ]
    assert "  leased by  pid 7  rank 0  2 shards, 75% consumed\n" in _text(body, 80)


def test_retries_are_told_while_a_shard_comes_in() -> None:
    body = empty_body()
    rows = [
        shard("s3://b/m/a", GIB, 0, "streaming", retries=3),
        shard("s3://b/m/b", GIB, GIB, "resident", retries=2),
    ]
    body["sources"] = [{"uri": "s3://b/m", "shards": rows}]
    text = _text(body, 80)
    assert "streaming, 3 retried" in text
    assert "2 retried" not in text


def test_text_from_outside_is_shown_as_it_is() -> None:
    body = empty_body()
    body["waiting"] = [{"pid": 5, "label": "[bold]rank :smile:", "needs_bytes": 1024}]
    assert "  pid 5  [bold]rank :smile:  needs 1.00 KiB\n" in _text(body, 80)


def test_fields_of_a_newer_daemon_are_no_error() -> None:
    body = busy_body() | {"numa": {"nodes": 2}}
    assert _text(body, 80) == _text(busy_body(), 80)


@pytest.mark.parametrize(
    ("field", "value"), [("pid", "4242"), ("memory", {}), ("sources", [{"uri": "/m"}])]
)
def test_a_body_of_another_shape_is_a_mismatch(field: str, value: object) -> None:
    with pytest.raises(ProtocolMismatch, match=f"{field}.*install the same version"):
        parse_status(busy_body() | {field: value})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (59.9, "59s"),
        (60.0, "1m 00s"),
        (3599.0, "59m 59s"),
        (7384.2, "2h 03m"),
        (356_400.0, "4d 03h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_percentage_is_100_only_when_nothing_is_missing() -> None:
    assert percent(999, 1000) == "99%"
    assert percent(1000, 1000) == "100%"
    assert percent(0, 0) == "100%"
