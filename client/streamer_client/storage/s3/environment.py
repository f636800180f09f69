"""Resolves the environment that S3 is read with: credentials, region, endpoint and options.

Runs in the client's process (a vLLM rank, streamerctl), never in the daemon. Keys that a program's
call gave (`EXPLICIT`) are used as they are. If the variables say everything, as in most containers,
they are used without botocore, whose import takes 0.3 s. In all other cases botocore finds the
rest: see `profiles.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from streamer_client.storage.environment import authorities_of, flag
from streamer_client.storage.s3.settings import (
    ENDPOINTS,
    EXPLICIT,
    PROFILES,
    SECRETS,
    SENT_ENDPOINT,
    UNSIGNED,
    VARIABLES,
    s3_settings,
)
from streamer_client.storage.s3.uri import s3_uri

if TYPE_CHECKING:
    from streamer_client.storage.s3.profiles import Profiles

_FILES: Final = (
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
)
"""The places of profiles: the variable that names a file, and the path used without it."""


class S3Environment:
    """See `SourceEnvironment`; each call of `resolved` returns credentials that are still valid.

    Args:
        uri: the source, for errors.
        environ: all variables of the client's process. botocore itself reads `os.environ`.
    """

    def __init__(self, uri: str, environ: Mapping[str, str]) -> None:
        s3_uri(uri)
        self._uri = uri
        self._environ = environ
        self._profiles: Profiles | None = None

    def resolved(self) -> dict[str, str]:
        """Credentials, region, endpoint and options, under the names that `settings.py` reads.

        Raises:
            ConfigError: a profile, region or endpoint is malformed or unknown, or a CA bundle
                cannot be used.
            SourceForbidden: configured credentials could not be obtained; the text says why.
        """
        found = self._given(VARIABLES)
        # This raises in the process whose variables are malformed, and with the user's own names.
        s3_settings(found | self._given((*ENDPOINTS, *SECRETS)))
        if self._environ.get(EXPLICIT) or self._variables_say_all():
            found |= self._from_variables()
        else:
            found |= self._from_profiles(found)
        s3_settings(found)  # raises if a profile's value is malformed
        return found

    def _given(self, names: Iterable[str]) -> dict[str, str]:
        return {name: self._environ[name] for name in names if self._environ.get(name)}

    def _variables_say_all(self) -> bool:
        """Whether no file could add to the variables, and no service would be asked for keys."""
        if any(self._environ.get(name) for name in PROFILES):
            return False
        keys = all(self._environ.get(name) for name in SECRETS[:2])
        if not keys and not flag(self._environ, UNSIGNED, default=False):
            return False
        places = (self._environ.get(name) or default for name, default in _FILES)
        paths = (os.path.expanduser(os.path.expandvars(place)) for place in places)  # as botocore
        return not any(map(os.path.lexists, paths))

    def _from_variables(self) -> dict[str, str]:
        """The keys from a call or from variables; a profile's region is not meant for them."""
        unsigned = flag(self._environ, UNSIGNED, default=False)
        found = {} if unsigned and not self._environ.get(EXPLICIT) else self._given(SECRETS)
        region = self._environ.get("AWS_REGION") or self._environ.get("AWS_DEFAULT_REGION")
        if region:
            found["AWS_REGION"] = region
        if self._endpoint():
            found[SENT_ENDPOINT] = self._endpoint()
        return found | authorities_of(self._environ)

    def _from_profiles(self, given: Mapping[str, str]) -> dict[str, str]:
        from streamer_client.storage.s3.profiles import Profiles  # noqa: PLC0415 - botocore, 0.3 s

        if self._profiles is None:
            self._profiles = Profiles(self._uri, self._environ)
        return self._profiles.resolved(given, self._endpoint())

    def _endpoint(self) -> str:
        return next((self._environ[name] for name in ENDPOINTS if self._environ.get(name)), "")
