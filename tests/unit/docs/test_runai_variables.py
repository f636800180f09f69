"""The table of variables names each of Run:ai's once, and the ones honoured are read somewhere."""

from __future__ import annotations

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
    """What the table says of a variable."""
    return [says for names, says in ROWS if f"`{variable}`" in names]


@pytest.mark.parametrize("variable", VARIABLES)
def test_each_variable_is_told_of_once(variable: str) -> None:
    assert len(rows_of(variable)) == 1


JUDGED = [one for one in VARIABLES if one.startswith(("RUNAI_", "AZURE_"))]


@pytest.mark.parametrize("variable", JUDGED)
def test_what_is_said_to_be_honoured_is_in_the_code(variable: str) -> None:
    honoured = rows_of(variable)[0].strip().startswith("honoured")
    sources = [*REPOSITORY.glob("client/**/*.py"), *REPOSITORY.glob("vllm_plugin/**/*.py")]
    assert honoured == any(f'"{variable}"' in path.read_text() for path in sources)
