"""Runs the cases of `runai_cases.py` with both packages, over files and over moto's S3.

`python -m tests.support.runai_record` writes the answers to `runai_0_17_cases.json`. The page of
differences is made from that file; tests compare it with the packages' present answers.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.support.guarded_store import guarded_store
from tests.support.runai_package import (
    CASES,
    CASES_RECORD,
    OURS,
    PACKAGE,
    package_missing,
    put_cases,
    run_program,
    write_cases,
    write_folder_of_weights,
)

BUCKET: Final = "cases"
PLACES: Final = ("files", "objects")
Record = dict[str, dict[str, dict[str, list[list[str]]]]]
"""The steps of each case, by place, package and title."""


@contextlib.contextmanager
def filled(place: str) -> Iterator[tuple[str, dict[str, str]]]:
    """A root for the cases, and the environment to reach it."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_cases(root)
        if place == "files":
            write_folder_of_weights(root)
            yield directory, {}
            return
        with guarded_store() as store:
            put_cases(root, store, BUCKET)
            retries = {"RUNAI_STREAMER_S3_MAX_RETRIES": "3"}
            yield f"s3://{BUCKET}", store.environ() | retries


def told(module: str, place: str, **environment: str) -> dict[str, Any]:
    """A package's answers in a place."""
    with filled(place) as (root, reach):
        variables = {"STREAMERD_MODE": "direct"} | reach | environment
        return run_program(["-m", CASES, module, root], module, variables)


def recorded() -> Record:
    """The recorded answers of both packages."""
    record: Record = json.loads(CASES_RECORD.read_text())
    return record


def main() -> None:
    missing = package_missing()
    if missing:
        sys.exit(missing)
    record = {
        place: {module: told(module, place) for module in (PACKAGE, OURS)} for place in PLACES
    }
    CASES_RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
