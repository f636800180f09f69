"""The workflows call targets of make that exist, and have no rights that they do not need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[3]
WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS: Final = frozenset(
    re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
)
CALL: Final = re.compile(r"\bmake ([a-z0-9-]+)")


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> dict[str, Any]:
    path: Path = request.param
    parsed: dict[str, Any] = yaml.safe_load(path.read_text())
    return parsed


def _steps(workflow: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def _calls(workflow: dict[str, Any]) -> set[str]:
    return {name for step in _steps(workflow) for name in CALL.findall(step.get("run", ""))}


def test_there_are_two() -> None:
    assert [path.stem for path in WORKFLOWS] == ["pull-request", "release"]


def test_every_step_runs_or_uses_one_thing(workflow: dict[str, Any]) -> None:
    for step in _steps(workflow):
        assert ("run" in step) != ("uses" in step), step
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[\w./-]+", step["uses"]), step


def test_it_calls_targets_that_exist(workflow: dict[str, Any]) -> None:
    called = _calls(workflow)
    assert {"test", "wheel", "deb"} <= called <= TARGETS


def test_jobs_wait_for_jobs_that_exist_and_have_an_end(workflow: dict[str, Any]) -> None:
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 120
        needed = job.get("needs", [])
        assert set([needed] if isinstance(needed, str) else needed) <= workflow["jobs"].keys()


def test_rights_are_to_read_but_where_a_release_is_made(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    writers = {name for name, job in workflow["jobs"].items() if "permissions" in job}
    assert writers <= {"publish"}


def test_nothing_of_a_pull_request_gets_into_a_shell(workflow: dict[str, Any]) -> None:
    """`${{ }}` in a command is pasted into it before the shell reads it; variables are not."""
    for step in _steps(workflow):
        assert "${{" not in step.get("run", ""), step


def test_pages_and_scripts_name_targets_that_exist() -> None:
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        ".ci/run",
        "systemd/README.md",
        "docs/operations.md",
    ):
        code = re.findall(
            r"`(make [^`]*)`|^(make .*|exec make .*)$", (ROOT / name).read_text(), re.MULTILINE
        )
        called = {target for pair in code for target in CALL.findall(" ".join(pair))}
        assert called, name
        assert called <= TARGETS, name
