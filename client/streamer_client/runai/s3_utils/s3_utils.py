"""Credentials that a caller passes, their form as variables, and kinds of paths. Pure.

The module has Run:ai's name, so that code which imports from it works unchanged. `listing` and
`pulling` list and copy files.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Final

from streamer_client.storage.s3.settings import EXPLICIT, SECRETS

S3_PROTOCOL_PREFIX: Final = "s3://"
GCS_PROTOCOL_PREFIX: Final = "gs://"
AZURE_PROTOCOL_PREFIX: Final = "az://"

_PROFILE_VARIABLES: Final = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
_REGION_VARIABLES: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")
_ENDPOINT_VARIABLES: Final = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "RUNAI_STREAMER_S3_ENDPOINT",
)


class S3Credentials:
    """An identity at an S3 store, its region and endpoint; None means the environment's."""

    def __init__(
        self,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        region_name: str | None = None,
        endpoint: str | None = None,
    ) -> None:
        self.access_key_id = access_key_id
        self.secret_access_key = secret_access_key
        self.session_token = session_token
        self.region_name = region_name
        self.endpoint = endpoint

    def __repr__(self) -> str:
        return f"S3Credentials(region_name={self.region_name!r}, endpoint={self.endpoint!r})"


def with_credentials(
    environ: Mapping[str, str], credentials: S3Credentials | None
) -> Mapping[str, str]:
    """The environment with the credentials in place of its own.

    A key replaces key, token and profile together, because a store refuses the key of one identity
    with the token of another. No profile and no configuration file is read then.
    """
    if credentials is None:
        return environ
    merged = dict(environ)
    keys = (
        credentials.access_key_id,
        credentials.secret_access_key,
        credentials.session_token,
    )
    if credentials.access_key_id is not None or credentials.secret_access_key is not None:
        _replace(merged, (*SECRETS, *_PROFILE_VARIABLES), None)
        for variable, value in zip(SECRETS, keys, strict=True):
            _replace(merged, (variable,), value)
        merged[EXPLICIT] = "1"
    elif credentials.session_token is not None:
        merged["AWS_SESSION_TOKEN"] = credentials.session_token
    if credentials.region_name is not None:
        _replace(merged, _REGION_VARIABLES, credentials.region_name)
    if credentials.endpoint is not None:
        _replace(merged, _ENDPOINT_VARIABLES, credentials.endpoint)
    return merged


def _replace(environ: dict[str, str], names: tuple[str, ...], value: str | None) -> None:
    for name in names:
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value


def is_s3_path(path: str) -> bool:
    """Whether a path is the URI of an S3 object or prefix."""
    return path.startswith(S3_PROTOCOL_PREFIX)


def is_gs_path(path: str) -> bool:
    """Whether a path is the URI of a Google Cloud Storage object or prefix."""
    return path.startswith(GCS_PROTOCOL_PREFIX)


def is_azure_path(path: str) -> bool:
    """Whether a path is the URI of an Azure blob or prefix."""
    return path.startswith(AZURE_PROTOCOL_PREFIX)


def filter_allow(paths: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The paths that match at least one glob."""
    return [path for path in paths if _matches(path, patterns)]


def filter_ignore(paths: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The paths that match no glob."""
    return [path for path in paths if not _matches(path, patterns)]


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def removeprefix(s: str, prefix: str) -> str:
    """The text without the prefix, if it has it."""
    return s.removeprefix(prefix)
