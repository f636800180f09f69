"""The version stands in one place, and every other statement of it agrees."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest

import streamerd
from streamerd import main
from streamerd.cli import main as streamerctl

ROOT: Final = Path(__file__).parents[3]


IMAGES: Final = tuple(f"deploy/kubernetes/{folder}kustomization.yaml" for folder in ("", "vllm/"))
HOME: Final = "https://git.example/streamerd"


def _check(root: Path, *tag: str, home: str = HOME) -> subprocess.CompletedProcess[str]:
    command = [str(root / "release" / "check"), *tag]
    environ = os.environ | {"STREAMERD_REPOSITORY_URL": home}
    return subprocess.run(command, env=environ, check=False, capture_output=True, text=True)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Copies of the files that `release/check` reads, which a test may change."""
    for name in ("release/check", "CHANGELOG.md", "daemon/streamerd/__init__.py", *IMAGES):
        os.makedirs((tmp_path / name).parent, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_distribution_takes_it_from_the_daemon() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "streamerd.__version__"}


@pytest.mark.parametrize("program", ["streamerd", "streamerctl"])
def test_the_programs_tell_it(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        (main.main if program == "streamerd" else streamerctl.main)(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out == f"{program} {streamerd.__version__}\n"


def test_the_sources_are_ready_for_its_tag() -> None:
    done = _check(ROOT, f"v{streamerd.__version__}")
    assert done.returncode == 0, done.stderr


def test_another_tag_is_refused(copied: Path) -> None:
    done = _check(copied, "v9.9.9")
    assert done.returncode == 1
    assert "the tag is v9.9.9" in done.stderr


def test_a_version_that_the_changelog_lacks_is_refused(copied: Path) -> None:
    module = copied / "daemon" / "streamerd" / "__init__.py"
    module.write_text(
        re.sub('(?m)^__version__ = ".*"$', '__version__ = "9.9.9"', module.read_text())
    )
    done = _check(copied, "v9.9.9")
    assert done.returncode == 1
    assert "write a line '## [9.9.9] - " in done.stderr


@pytest.mark.parametrize("name", IMAGES)
def test_images_of_another_version_are_refused(copied: Path, name: str) -> None:
    file = copied / name
    file.write_text(file.read_text().replace(streamerd.__version__, "9.9.9"))
    done = _check(copied)
    assert done.returncode == 1
    assert f"newTag in {name} is '9.9.9'" in done.stderr


def test_a_release_says_where_its_sources_are(copied: Path) -> None:
    assert _check(copied, home="").returncode == 0
    done = _check(copied, f"v{streamerd.__version__}", home="")
    assert done.returncode == 1
    assert "STREAMERD_REPOSITORY_URL" in done.stderr
