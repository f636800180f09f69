"""Prints the table of docs/fleet.md; each line appears when its run is over."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.fleet_simulation.cases import CASES, simulate

HEAD = (
    "| nodes | blocks | case | last node, time over ideal | from the store / file |\n"
    "|---|---|---|---|---|"
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases that the command line names."""
    parser = argparse.ArgumentParser(description="simulate a fleet's plan")
    parser.add_argument("--nodes", type=int, nargs="+", default=[100])
    parser.add_argument("--blocks", type=int, nargs="+", default=[300, 1000])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--gbit", type=float, default=10.0, help="rate of every link, Gbit/s")
    parser.add_argument("--uploads", type=int, default=16, help="as fleet_uploads")
    given = parser.parse_args(argv)
    print(HEAD, flush=True)
    for count in given.nodes:
        for blocks in given.blocks:
            for case in given.cases:
                print(row(case, count, blocks, given.gbit, given.uploads), flush=True)


def row(case: str, count: int, blocks: int, gbit: float, uploads: int) -> str:
    """One line of the table."""
    outcome = simulate(case, count, blocks, gbit, uploads)
    alive = [node for node in outcome.nodes if not node.dead]
    early = [node for node in alive if not node.starts_s]
    late = [node for node in alive if node.starts_s]
    times, store = f"{outcome.over_ideal(early):.2f}", f"{outcome.from_store(outcome.nodes):.2f}"
    if late:
        times += f"; those that come late {outcome.over_ideal(late):.2f}"
        store += f"; {outcome.from_store(late):.2f} for those"
    return f"| {count:,} | {blocks:,} | {CASES[case][0]} | {times} | {store} |"


if __name__ == "__main__":
    main()
