"""How the ring's compiled part is built, and how the wheel is tagged.

Owns these two things, which pyproject.toml cannot express; everything else about the distribution
stands there. The library is plain C that ctypes loads: it uses no symbol of Python, so one build
of it serves every Python, is named without a Python's tag, and makes the wheel `py3-none-PLATFORM`.
Whatever builds the distribution (`pip`, `python -m build`) runs this file in a process of its own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from typing import Final

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

COMPILERS: Final = ("cc", "gcc", "clang")


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


setup(cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPythonWheel})
