"""Finds out whether a process runs on a node, in a container or in a pod.

`place.py` says what can be done at each kind of place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from streamerd.cli.doctor.place import Place

SYSTEMD: Final = "run/systemd/system"
"""A folder that exists exactly where systemd runs the machine: see sd_booted(3)."""
_ENGINES_FILES: Final = ("run/.containerenv", ".dockerenv")


def ask_place(environ: Mapping[str, str], root: str = "/") -> Place:
    """Find the place where this process runs; `root` is the folder that holds `run`.

    Kubernetes tells every container where its API is. Container engines leave a file, or set the
    variable that systemd's convention asks of them.
    """
    if os.path.isdir(os.path.join(root, SYSTEMD)):
        return Place.NODE
    if "KUBERNETES_SERVICE_HOST" in environ:
        return Place.POD
    left = any(os.path.exists(os.path.join(root, name)) for name in _ENGINES_FILES)
    return Place.CONTAINER if left or environ.get("container") else Place.NODE
