"""How the ring's compiled part is built, how the wheel is tagged, and where its page's links lead.

Owns these three things, which pyproject.toml cannot express; everything else about the distribution
stands there. The library is plain C that ctypes loads: it uses no symbol of Python, so one build
of it serves every Python, is named without a Python's tag, and makes the wheel `py3-none-PLATFORM`.
Whatever builds the distribution (`pip`, `python -m build`) runs this file in a process of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from typing import Final

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

COMPILERS: Final = ("cc", "gcc", "clang")
HOME: Final = "STREAMERD_REPOSITORY_URL"
"""The variable that says where the sources are published. The workflow of a release sets it to the
repository that it runs in, so that no address stands in the sources, where it could be wrong."""


class BuildLibrary(build_ext):  # type: ignore[misc]  # setuptools comes without types
    """Compiles a plain shared library, without the flags of the Python that runs the build."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        library = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(library), exist_ok=True)
        command = [
            *_compiler(),
            *(*ext.extra_compile_args, "-shared", "-fPIC", "-s", "-o", library),
            *map(os.fspath, ext.sources),
            *(f"-l{name}" for name in ext.libraries),
        ]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(f"{shlex.join(command)}: {error}") from error


def _compiler() -> list[str]:
    """`$CC`, which may have arguments, or the first C compiler that is found.

    Raises:
        CompileError: there is none.
    """
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        return chosen
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise CompileError(f"no C compiler: none of {', '.join(COMPILERS)} is in PATH; set CC")


class AnyPythonWheel(bdist_wheel):  # type: ignore[misc]  # as above
    """Tags the wheel for one platform and every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        platform: str
        _, _, platform = super().get_tag()
        return "py3", "none", platform


def page(text: str, version: str, home: str) -> str:
    """The README as an index of packages shows it, which has none of the files that it links to.

    Args:
        text: the README.
        version: names the tag `vVERSION` whose files are linked to.
        home: address of the repository. Where it is empty a link becomes its bare words.
    """
    to = rf"[\1]({home}/blob/v{version}/\2)" if home else r"\1"
    return re.sub(r"\[([^]]+)\]\((?!https?://|#)([^)]+)\)", to, text)


def links(version: str, home: str) -> dict[str, str]:
    """The addresses in the distribution's metadata; none where nobody said where sources are."""
    if not home:
        return {}
    return {
        "Source": home,
        "Documentation": f"{home}/tree/v{version}/docs",
        "Changelog": f"{home}/blob/v{version}/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }


def _metadata() -> dict[str, object]:
    with open("daemon/streamerd/__init__.py", encoding="utf-8") as module:
        (version,) = re.findall(r'^__version__ = "(.*)"$', module.read(), re.MULTILINE)
    home = os.environ.get(HOME, "").rstrip("/")
    with open("README.md", encoding="utf-8") as readme:
        text = page(readme.read(), version, home)
    return {
        "long_description": text,
        "long_description_content_type": "text/markdown",
        "project_urls": links(version, home),
    }


if __name__ == "__main__":
    setup(cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPythonWheel}, **_metadata())
