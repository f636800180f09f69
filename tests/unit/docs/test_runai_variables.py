"""The table of variables names each of Run:ai's once, and some code reads each variable that is
honoured.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
PAGE = (REPOSITORY / "docs" / "runai-compatibility.md").read_text()
VARIABLES = (REPOSITORY / "tests/support/runai_0_17_variables.txt").read_text().split()

ROWS = [
    line.split("|")[1:3] for line in PAGE.splitlines() if re.match(r"\| `(RUNAI|AWS|AZURE)_", line)
]


def rows_of(variable: str) -> list[str]:
    """The table's text about a variable."""
    return [says for names, says in ROWS if f"`{variable}`" in names]


@pytest.mark.parametrize("variable", VARIABLES)
def test_each_variable_is_told_of_once(variable: str) -> None:
    assert len(rows_of(variable)) == 1


JUDGED = [one for one in VARIABLES if one.startswith(("RUNAI_", "AZURE_"))]


@pytest.mark.parametrize("variable", JUDGED)
def test_what_is_said_to_be_honoured_is_in_the_code(variable: str) -> None:
    honoured = rows_of(variable)[0].strip().startswith("honoured")
    assert honoured == any(f'"{variable}"' in line for line in _lines_that_may_read())


@functools.cache
def _lines_that_may_read() -> list[str]:
    """The lines of the code, except those that only define a constant of Run:ai's name for
    programs.
    """
    sources = [*REPOSITORY.glob("client/**/*.py"), *REPOSITORY.glob("vllm_plugin/**/*.py")]
    lines = [line for path in sources for line in path.read_text().splitlines()]
    return [line for line in lines if not re.match(r"RUNAI_\w+: Final = ", line)]
