"""Runs all tests: first the folders whose tests bear others beside them, then the rest one by one.

Owns the choice of what runs beside what, and the one line at the end that counts both runs. pytest
runs the tests, each time in a process of its own: `python -m tests.everything [FLAGS OF PYTEST]`,
which is what `make test` does. Where the arguments name tests, those alone run, by plain pytest.

Tests of one file always run one after the other in one process, so fixtures of a module are made
once. What starts daemons, fills mounts, kills processes, boots a machine or starts vLLM belongs
into the second run; a folder is there unless it is listed in `BESIDE_OTHERS`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

TESTS: Final = Path(__file__).parent
BESIDE_OTHERS: Final[tuple[str, ...]] = ("unit", "property", "contract")
MOST_AT_ONCE: Final = 8
_NONE_CHOSEN: Final = 5
"""pytest's exit status if no test was chosen, for example by `-k`."""
_ADDRESSED: Final = ("failures", "errors", "skipped")


def folders() -> tuple[list[str], list[str]]:
    """The folders of the first and of the second run."""
    found = sorted({path.relative_to(TESTS).parts[0] for path in TESTS.glob("*/**/test_*.py")})
    first = [name for name in BESIDE_OTHERS if name in found]
    return first, [name for name in found if name not in first]


def names_tests(arguments: Sequence[str]) -> bool:
    """Whether some argument is a path, or a test in one."""
    return any(Path(each.partition("::")[0]).exists() for each in arguments)


def at_once() -> int:
    """The number of processes that run tests at a time: one for each core that this process may
    use.
    """
    return min(MOST_AT_ONCE, len(os.sched_getaffinity(0)))


def run(names: Sequence[str], flags: Sequence[str]) -> tuple[int, Counter[str]]:
    """One run of pytest over some folders of `tests/`: its exit status, and how its tests ended."""
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results.xml"
        paths = [str(TESTS / name) for name in names]
        status = subprocess.run(
            [sys.executable, "-m", "pytest", f"--junit-xml={results}", *flags, *paths], check=False
        ).returncode
        if not results.exists():
            # The run of pytest broke off before its end and has printed the reason.
            return status or 1, Counter(errors=1)
        return status, counted(results.read_text())


def counted(results: str) -> Counter[str]:
    """The number of tests for each way in which they ended, in pytest's words, from its results in
    JUnit's format.
    """
    counts: Counter[str] = Counter()
    for suite in ET.fromstring(results).iter("testsuite"):  # noqa: S314 - pytest wrote it
        ended = {name: int(suite.get(name, "0")) for name in _ADDRESSED}
        counts["passed"] += int(suite.get("tests", "0")) - sum(ended.values())
        counts["failed"] += ended["failures"]
        counts["skipped"] += ended["skipped"]
        counts["errors"] += ended["errors"]
    return counts


def last_line(counts: Counter[str], seconds: float) -> str:
    """One line in the form of pytest's last line."""
    ways = ("failed", "passed", "skipped", "error" if counts["errors"] == 1 else "errors")
    numbers = (counts["failed"], counts["passed"], counts["skipped"], counts["errors"])
    words = [f"{number} {way}" for number, way in zip(numbers, ways, strict=True) if number]
    told = ", ".join(words) or "no tests ran"
    return f" {told} in {seconds:.2f}s ({timedelta(seconds=int(seconds))}) ".center(80, "=")


def main(flags: Sequence[str]) -> int:
    """Run all tests, or those that `flags` name; returns the exit status."""
    if names_tests(flags):
        return subprocess.run([sys.executable, "-m", "pytest", *flags], check=False).returncode
    began_s = time.monotonic()
    first, second = folders()
    # Each process of pytest-xdist runs a thread beside the tests, and Python 3.12 and later warn
    # when a process with several threads forks. Tests fork to become another user.
    beside = (
        "-n",
        str(at_once()),
        "--dist=loadfile",
        "-W",
        "ignore:This process:DeprecationWarning",
    )
    ran = [run(first, [*beside, *flags]), run(second, flags)]
    counts = sum((counts for _, counts in ran), Counter[str]())
    print(last_line(counts, time.monotonic() - began_s), flush=True)  # noqa: T201 - the outcome
    wrong = [status for status, _ in ran if status not in (0, _NONE_CHOSEN)]
    return wrong[0] if wrong else min(status for status, _ in ran)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
