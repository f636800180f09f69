"""Runs a call as a user other than root, because file modes do not apply to root."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

NOBODY: Final = 65534


def as_nobody(call: Callable[[], object]) -> str:
    """Call as user `nobody` in a child; return the result as text, or `ClassName: text` of an
    error.

    If the tests themselves do not run as root, the call runs as their user.
    """
    return as_user(NOBODY, call)


def as_user(uid: int, call: Callable[[], object]) -> str:
    """Call as `as_nobody` does, for any user, whose group has the same number."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write_end, _told(uid, call).encode()[:60_000])
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    return text


def open_to_others(folder: Path) -> None:
    """Let other users reach a test's folder, which pytest makes for its own user alone."""
    for each in (folder, *folder.parents):
        if each == folder or each.name.startswith(("pytest-", "popen-")):
            each.chmod(0o755)


def _told(uid: int, call: Callable[[], object]) -> str:
    try:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        return str(call())
    except Exception as error:  # noqa: BLE001 - passed to the parent, which judges it
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
