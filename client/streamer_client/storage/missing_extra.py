"""The error for a kind of source whose optional library is not installed."""

from __future__ import annotations

from streamer_client.contract.errors import ConfigError


def missing_extra(uri: str, extra: str, error: ImportError) -> ConfigError:
    """What to install, and where.

    Args:
        uri: the source.
        extra: of this distribution.
        error: which library was not found.
    """
    return ConfigError(
        f"{uri}: the library {error.name or error} is needed for these credentials and is not "
        f"installed; pip install 'streamerd[{extra}]' where vLLM or streamerctl runs (the daemon "
        "does not need it)"
    )
