"""What of this process's environment the reading of a source depends on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_PREFIXES: Final = ("AWS_", "RUNAI_STREAMER_S3_", "GOOGLE_", "AZURE_")


def source_environment(source: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables to send with an open: none for files, credentials and endpoints for objects."""
    if "://" not in source or source.startswith("file://"):
        return {}
    return {name: value for name, value in environ.items() if name.startswith(_PREFIXES)}
