"""Every folder of tests is run once, and the last line counts the tests as pytest counted them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests import everything
from tests.everything import TESTS, counted, folders, last_line, main, names_tests


def test_every_folder_with_tests_is_in_one_of_both_runs() -> None:
    first, second = folders()
    assert sorted((*first, *second)) == sorted(
        folder.name for folder in TESTS.iterdir() if any(folder.glob("**/test_*.py"))
    )
    assert {"vllm", "systemd", "faults", "hostile"} <= set(second)


def test_what_is_counted_is_what_pytest_counted(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "def test_a(): pass\n"
        "def test_b(): assert False\n"
        "def test_c(): pytest.skip('why')\n"
        "def test_d(missing): pass\n"
    )
    results = tmp_path / "results.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--junit-xml={results}", "-p", "no:cacheprovider",
         f"--rootdir={tmp_path}", str(tmp_path)],
        check=False, capture_output=True,
    )  # fmt: skip
    counts = counted(results.read_text())
    assert counts == Counter(passed=1, failed=1, skipped=1, errors=1)
    assert " 1 failed, 1 passed, 1 skipped, 1 error in 61.50s (0:01:01) " in last_line(counts, 61.5)


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [(0, 0, 0), (1, 0, 1), (0, 1, 1), (0, 2, 2), (5, 0, 0), (5, 5, 5), (1, 5, 1), (-9, 0, -9)],
)
def test_either_run_fails_the_whole(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    first: int,
    second: int,
    status: int,
) -> None:
    statuses = [second, first]

    def run(_names: Sequence[str], _flags: Sequence[str]) -> tuple[int, Counter[str]]:
        return statuses.pop(), Counter(passed=2)

    monkeypatch.setattr(everything, "run", run)
    assert main(["-q"]) == status
    assert " 4 passed in " in capsys.readouterr().out.splitlines()[-1]


def test_a_run_that_broke_counts_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert everything.run(["unit"], []) == (1, Counter(errors=1))


def test_paths_and_tests_are_told_from_flags() -> None:
    assert names_tests([__file__ + "::test_x", "-q"])
    assert not names_tests(["-q", "-k", "no_such_thing"])
