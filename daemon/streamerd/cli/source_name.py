"""Sources as the daemon must see them: its working directory is another one."""

from __future__ import annotations

import os


def absolute_source(source: str) -> str:
    """A URI as it stands; a path made absolute against the caller's working directory."""
    return source if "://" in source else os.path.abspath(os.path.expanduser(source))
