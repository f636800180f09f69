"""Writes `docs/vllm-versions.md`: which vLLM has what the plugin touches (`make vllm-symbols`).

Each symbol of `streamer_vllm.versions.SYMBOLS` is looked up in the source of each minor version, as
it lies in the wheel on the package index: pip tells where that is and reads of it what is asked
for, a few hundred kilobytes of several hundred megabytes; nothing is installed. Exits 1 where a
supported version lacks what the table promises.
"""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

from streamer_vllm.versions import SYMBOLS, Symbol, lacking

PAGE: Final = Path(__file__).with_name("vllm-versions.md")

VERSIONS: Final = (
    *("0.21.0", "0.22.1", "0.23.0", "0.24.0", "0.25.1", "0.26.0", "0.27.1"),
    *("0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0"),
)

CONSTRUCTORS: Final = ("__init__", "__post_init__")

AT_ONCE: Final = 7
"""Versions looked at in parallel: the time goes into small requests."""

TOP: Final = """\
# vLLM's versions

Made by `make vllm-symbols` from the table in `streamer_vllm/versions.py` and the wheels of each
minor version. The plugin needs the rows in bold; the last column says what happens without the
others. A newer vLLM is tried: what it lacks is told once in its log, and where it lacks a row in
bold its own loaders stay in place.

"""


def main() -> int:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(zip(VERSIONS, pool.map(_has, VERSIONS), strict=True))
    PAGE.write_text(TOP + table(found), encoding="utf-8")
    wrong = [
        f"vLLM {version} lacks {symbol.full_name}"
        for version, has in found.items()
        for symbol in lacking(version, has.__getitem__)
    ]
    print(f"{PAGE}: {len(SYMBOLS)} symbols in {len(VERSIONS)} versions")  # noqa: T201
    for line in wrong:
        print(line, file=sys.stderr)  # noqa: T201
    return 1 if wrong else 0


def table(found: Mapping[str, Mapping[Symbol, bool]]) -> str:
    """The page's table: a row a symbol, a column a version. Pure."""
    shorts = [version.rpartition(".")[0] for version in found]
    lines = [
        f"| symbol, below `vllm.` | {' | '.join(shorts)} | without it |",
        f"|---|{'---|' * len(shorts)}---|",
    ]
    for symbol in SYMBOLS:
        name = f"`{symbol.module}` `{symbol.name}`"
        marks = " | ".join("yes" if has[symbol] else "-" for has in found.values())
        shown = f"**{name}**" if symbol.needed else name
        lines.append(f"| {shown} | {marks} | {symbol.without or 'needed'} |")
    return "\n".join(lines) + "\n"


def _has(version: str) -> dict[Symbol, bool]:
    with _wheel(version) as wheel:
        names = set(wheel.namelist())
        trees: dict[str, ast.Module | None] = {}
        for module in {symbol.module for symbol in SYMBOLS}:
            path = f"vllm/{module.replace('.', '/')}"
            files = names & {f"{path}.py", f"{path}/__init__.py"}
            trees[module] = ast.parse(wheel.read(files.pop())) if files else None
    return {symbol: defines(trees[symbol.module], symbol.name) for symbol in SYMBOLS}


def defines(tree: ast.AST | None, name: str) -> bool:
    """Whether a module's source defines, imports or assigns a name; a dot leads into a class."""
    first, _, rest = name.partition(".")
    for node in _statements(tree):
        if first in _names(node):
            return not rest or (isinstance(node, ast.ClassDef) and defines(node, rest))
    return False


def _statements(tree: ast.AST | None) -> Iterator[ast.AST]:
    """Statements of a module or a class, also below `if` and `try`, and in a constructor."""
    for node in () if tree is None else ast.iter_child_nodes(tree):
        yield node
        constructor = isinstance(node, ast.FunctionDef) and node.name in CONSTRUCTORS
        if constructor or isinstance(node, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from _statements(node)


def _names(node: ast.AST) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {alias.asname or alias.name for alias in names}
        case ast.Assign(targets=targets):
            return {_target(target) for target in targets}
        case ast.AnnAssign(target=target):
            return {_target(target)}
        case _:
            return set()


def _target(target: ast.expr) -> str:
    match target:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


@contextmanager
def _wheel(version: str) -> Iterator[ZipFile]:
    """The wheel on the index, read in parts."""
    lazy: Any = importlib.import_module("pip._internal.network.lazy_wheel")
    sessions: Any = importlib.import_module("pip._internal.network.session")
    url = _wheel_url(version)
    with lazy.LazyZipOverHTTP(url, sessions.PipSession(retries=3)) as file, ZipFile(file) as wheel:
        yield wheel


def _wheel_url(version: str) -> str:
    report = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", f"vllm=={version}", "--report", "-"),
            *("--dry-run", "--quiet", "--no-deps", "--ignore-installed", "--only-binary=:all:"),
        ],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    return str(json.loads(report)["install"][0]["download_info"]["url"])


if __name__ == "__main__":
    raise SystemExit(main())
