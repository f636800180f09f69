"""Credentials that a caller gives along, and the environment that says the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer_client.storage.s3.settings import EXPLICIT, SECRETS

_PROFILE_VARIABLES: Final = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
_REGION_VARIABLES: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")
_ENDPOINT_VARIABLES: Final = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "RUNAI_STREAMER_S3_ENDPOINT",
)


class S3Credentials:
    """Who asks an S3 store, and where; what is None comes from the environment as ever."""

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
    """The environment as it would be if the credentials had come by it.

    A key replaces key, token and profile together, since half of one identity with half of another
    is refused by every store; then no profile and no configuration file is read at all.
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
