"""What the demo reads from vLLM's log, and the table that it ends with."""

from streamer_vllm.demo.run import Start, comparison
from streamer_vllm.demo.server import RankLoad, rank_loads

LINE = (
    "(Worker pid=7) INFO 11-22 23:10:01 [session.py:59] streamerd: rank={rank} event=loaded "
    "dp_rank=0 source=/models/llama bytes=79600000 seconds={seconds} "
    "gb_per_s=0.32 from_memory=0% via=daemon socket=/s\n"
)


def test_each_ranks_load_is_found_once_and_in_order() -> None:
    log = "noise\n" + LINE.format(rank=1, seconds="0.643") + LINE.format(rank=0, seconds="0.245")
    assert rank_loads(log) == [RankLoad(0, 79_600_000, 0.245), RankLoad(1, 79_600_000, 0.643)]


def test_a_log_without_our_line_has_no_loads() -> None:
    assert rank_loads("Loading weights took 0.3 seconds\n") == []


def test_the_slowest_rank_counts() -> None:
    first = Start([RankLoad(0, 1, 0.2), RankLoad(1, 1, 0.6434)], 159_198_144, "x")
    second = Start([RankLoad(0, 1, 0.3), RankLoad(1, 1, 0.1)], 0, "x")
    assert [line.strip() for line in comparison(first, second).splitlines()] == [
        "first start      second start",
        "weights loaded in            0.643 s           0.300 s",
        "read from storage      159,198,144 B               0 B",
    ]
