"""Source distribution and wheel as they are built here, by the C compiler at hand, offline.

`make wheel` builds the same with zig's compiler, for other processors and older systems too.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import pytest

import streamerd
from streamer_client.copy.ring.native import LIBRARY, load_library
from tests.support.compiled_ring import CompiledRing
from tests.support.daemon import REPOSITORY
from tests.support.rings import OpenFile, cut, run_over

NAME: Final = f"streamerd-{streamerd.__version__}"
RING: Final = f"streamer_client/copy/ring/{LIBRARY}"
ROOTS: Final = {"daemon": "streamerd", "client": "streamer_client", "vllm_plugin": "streamer_vllm"}
DATA_FILES: Final = {f"{root}/py.typed" for root in ROOTS.values()} | {
    "streamerd/cli/report/page.html"
}
OWN_FILES: Final = re.compile(r"PKG-INFO|setup\.cfg|\w+\.egg-info(/.*)?|[\w/]+/\w+\.egg-info/.*")
"""Files that setuptools adds to a source distribution."""


def _build(what: str, tree: Path, out: Path, **environ: str) -> Path:
    """Call the build backend in `tree`, as pip and `python -m build` do."""
    out.mkdir(exist_ok=True)
    code = f"from setuptools import build_meta; build_meta.build_{what}({str(out)!r})"
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environ
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        env=environ,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.iterdir()
    return path


def _tracked() -> list[str]:
    """The files that git tracks, or all files where the sources are no checkout of their own."""
    if (REPOSITORY / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z"]
        done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
        return [name for name in done.stdout.split("\0") if (REPOSITORY / name).is_file()]
    ignored = [line.rstrip("/") for line in (REPOSITORY / ".gitignore").read_text().split()]
    return sorted(
        name
        for name in _files(REPOSITORY)
        if not any(fnmatch(part, one) for part in name.split("/") for one in ignored)
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, because building leaves files beside them."""
    tree = tmp_path_factory.mktemp("checkout")
    for name in _tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build("sdist", checkout, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / NAME


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler")
    return _build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)  # noqa: S202  made a moment ago
    return folder


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_source_distribution_holds_what_a_checkout_holds(sdist: Path, checkout: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {one.name.removeprefix(NAME + "/") for one in archive if one.isfile()}
    assert sdist.name == NAME + ".tar.gz"
    ours = {name for name in names if not OWN_FILES.fullmatch(name)}
    assert ours == {name for name in _files(checkout) if not OWN_FILES.fullmatch(name)}
    assert any(name.startswith("tests/unit/") for name in ours)


def test_the_wheel_is_for_every_python(wheel: Path, installed: Path) -> None:
    assert re.fullmatch(re.escape(NAME) + r"-py3-none-linux_\w+\.whl", wheel.name)
    said = HeaderParser().parsestr((installed / f"{NAME}.dist-info" / "WHEEL").read_text())
    assert said["Root-Is-Purelib"] == "false"
    assert said.get_all("Tag") == [wheel.stem.removeprefix(NAME + "-")]


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path, checkout: Path) -> None:
    modules = {
        path.relative_to(checkout / folder).as_posix()
        for folder, root in ROOTS.items()
        for path in (checkout / folder / root).rglob("*.py")
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith(f"{NAME}.dist-info/")}
    assert names == modules | DATA_FILES | {RING}


def test_the_wheel_names_no_place_where_it_was_built(installed: Path, unpacked: Path) -> None:
    for name in _files(installed):
        content = (installed / name).read_bytes()
        assert str(unpacked).encode() not in content, name
        assert sys.prefix.encode() not in content, name


def test_its_metadata_tells_version_and_licence(installed: Path) -> None:
    said = HeaderParser().parsestr((installed / f"{NAME}.dist-info" / "METADATA").read_text())
    assert said["Version"] == streamerd.__version__
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Description-Content-Type"] == "text/markdown"
    assert (installed / f"{NAME}.dist-info" / "licenses" / "LICENSE").is_file()


def test_its_library_needs_no_python_and_copies(installed: Path, tmp_path: Path) -> None:
    path = installed / RING
    assert not re.search(rb"\bPy[A-Z_]|libpython", path.read_bytes())
    parts = CompiledRing(tmp_path)  # this compiles the driver that stands in for CUDA's
    parts.library = load_library(str(path))
    data = random.Random(3).randbytes(20_000)
    shard = tmp_path / "shard"
    shard.write_bytes(data)
    ring = parts.ring()
    lane = ring.lane()
    targets = cut(len(data), 1, 4096, 4097)
    with shard.open("rb") as file:
        lane.copy(OpenFile(file.fileno()), 0, len(data), run_over(targets, 0).pieces)
        lane.wait(lane.sent)
    assert b"".join(target.bytes for target in targets) == data
    lane.close()
    ring.close()


def test_without_a_compiler_there_is_no_library_and_no_failure(
    unpacked: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(tmp_path)]
    environ = os.environ | {"CC": "false"}
    done = subprocess.run(
        command, cwd=unpacked, env=environ, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "failed" in done.stderr
    assert not list(tmp_path.rglob("*.so"))
