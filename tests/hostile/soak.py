"""The soak (`make soak`): hostile messages, headers and peers, kills, and a crowd.

Runs its parts one after the other (`--only` chooses some), and prints the progress and a line with
the outcome of each. All parts are seeded, so a failure can be repeated with the seed that is
printed. The soak fails where something wrong was accepted, where a process ended or hung, where
anything was left behind, or where memory grew more than it may.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from streamer_client.contract.codec import decode_client, decode_daemon
from streamer_client.contract.limits import MAX_MESSAGE_BYTES
from tests.hostile import crowd, daemon_fuzz, kills
from tests.hostile.judging import judge_file, judge_frame
from tests.hostile.mutations import files, frames
from tests.support.every_message import CLIENT, DAEMON

REPORTS: Final = 10
MOST_GROWTH_BYTES: Final = 32 * MAX_MESSAGE_BYTES
CROWD_PROCESSES, CROWD_KILLED, CROWD_ACTIONS = 8, 2, 5
PARTS: Final = ("decoders", "headers", "daemon", "crowd", "kills")


def run(what: str, source: Iterator[bytes], judge: Callable[[bytes], bool], count: int) -> int:
    """Judge this many files; returns how many were accepted."""
    passed = 0
    for number in range(1, count + 1):
        passed += judge(next(source))
        if number % max(1, count // REPORTS) == 0:
            _say(f"{what}: {number:,} of {count:,}, {passed:,} valid, {_peak_bytes() >> 20} MiB")
    return passed


def main() -> int:
    """Run all parts; returns the exit code."""
    asked = _arguments()
    chosen: dict[str, Callable[[argparse.Namespace], bool]] = {
        "decoders": _decoders,
        "headers": _headers,
        "daemon": _daemon,
        "crowd": _crowd,
        "kills": _kills,
    }
    began_s, right = time.monotonic(), True
    for part in asked.only or PARTS:
        logs = io.StringIO()  # the daemons' logs, printed only if the part fails
        with contextlib.redirect_stderr(logs):
            found = chosen[part](asked)
        if not found:
            sys.stderr.write(logs.getvalue())
        right = right and found
    _say(
        f"{'right' if right else 'WRONG'}: {', '.join(asked.only or PARTS)}, seed {asked.seed}, "
        f"{time.monotonic() - began_s:.0f} s"
    )
    return 0 if right else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.soak", description=__doc__)
    parser.add_argument(
        "--messages",
        type=int,
        default=1_000_000,
        help="half of them to the decoders, half to a real daemon",
    )
    parser.add_argument("--headers", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=64, help="of the crowd, in 8 processes")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=" ".join(PARTS))
    return parser.parse_args()


# --- the parts ----------------------------------------------------------------------------------


def _decoders(asked: argparse.Namespace) -> bool:
    each = asked.messages // 4
    client, daemon = partial(judge_frame, decode_client), partial(judge_frame, decode_daemon)
    return _bounded(
        lambda: (
            run("to the daemon", frames(asked.seed, CLIENT), client, each),
            run("to a client", frames(asked.seed, DAEMON), daemon, each),
        )
    )


def _headers(asked: argparse.Namespace) -> bool:
    return _bounded(lambda: run("headers", files(asked.seed), judge_file, asked.headers))


def _bounded(do: Callable[[], object]) -> bool:
    """Whether the part left memory as it may."""
    began_bytes = _peak_bytes()
    do()
    grown_bytes = _peak_bytes() - began_bytes
    if grown_bytes > MOST_GROWTH_BYTES:
        _say(f"memory grew by {grown_bytes >> 20} MiB, and {MOST_GROWTH_BYTES >> 20} is the most")
    return grown_bytes <= MOST_GROWTH_BYTES


def _daemon(asked: argparse.Namespace) -> bool:
    outcome = daemon_fuzz.run(asked.seed, asked.messages // 2, partial(_say_of, "daemon"))
    _say_of("daemon", str(outcome))
    return outcome.is_right


def _crowd(asked: argparse.Namespace) -> bool:
    threads = max(1, asked.clients // CROWD_PROCESSES)
    outcome = crowd.run(asked.seed, CROWD_PROCESSES, threads, CROWD_ACTIONS, CROWD_KILLED)
    _say_of("crowd", str(outcome))
    return outcome.is_right


def _kills(asked: argparse.Namespace) -> bool:
    tally = kills.run(asked.seed, asked.kills, partial(_say_of, "kills"))
    _say_of("kills", str(tally))
    return tally.is_right


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _say_of(part: str, text: str) -> None:
    _say(f"{part}: {text}")


def _say(text: str) -> None:
    sys.stdout.write(f"hostile: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
