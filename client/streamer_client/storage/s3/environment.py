"""Resolves the environment that S3 is read with: credentials, region, endpoint and options.

botocore finds the credentials as the AWS command line does: environment, profile, SSO, web
identity, assumed role, process, container and instance metadata. Runs in the client's process (a
vLLM rank, streamerctl), never in the daemon. Where a program's call gave the keys (`EXPLICIT`),
they are used as they are, and neither botocore nor a file is asked for anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import botocore.exceptions
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.session import Session

from streamer_client.contract.errors import ConfigError, SourceForbidden, StreamerError
from streamer_client.storage.environment import authorities_of, flag
from streamer_client.storage.s3.settings import (
    ENDPOINTS,
    EXPLICIT,
    SECRETS,
    SENT_ENDPOINT,
    UNSIGNED,
    VARIABLES,
    VIRTUAL,
    s3_settings,
)
from streamer_client.storage.s3.uri import s3_uri

_PROFILES: Final = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
_NO_PROFILE: Final[dict[str, Any]] = {"profile": (None, None, None, None)}
"""For a session that looks for no profile in variables: else botocore looks for one named ""."""


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
        self._session: Session | None = None
        self._renewing: RefreshableCredentials | None = None

    def resolved(self) -> dict[str, str]:
        """Credentials, region, endpoint and options, under the names that `settings.py` reads.

        Raises:
            ConfigError: a profile, region or endpoint is malformed or unknown, or a CA bundle
                cannot be used.
            SourceForbidden: configured credentials could not be obtained; the text says why.
        """
        found = self._given(VARIABLES)
        # Raises here, in the process whose variables are malformed, and with the user's own names.
        s3_settings(found | self._given((*ENDPOINTS, *SECRETS)))
        try:
            found |= self._resolved(found)
        except (botocore.exceptions.ProfileNotFound, botocore.exceptions.ConfigParseError) as error:
            raise ConfigError(
                f"{self._uri}: {error}; correct AWS_PROFILE, or the file it should be in"
            ) from error
        except StreamerError:
            raise  # before the next: a ConfigError is a ValueError too
        except ValueError as error:
            # So botocore says that a number is none, or that a URI has no host it would ask.
            raise ConfigError(
                f"{self._uri}: a variable or a profile's setting of AWS makes no sense: {error}; "
                "correct it, for example AWS_CONTAINER_CREDENTIALS_FULL_URI or "
                "AWS_METADATA_SERVICE_TIMEOUT"
            ) from error
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            raise SourceForbidden(
                f"{self._uri}: credentials are configured, and could not be obtained: {error}; "
                "renew them (for example `aws sso login`), or set RUNAI_STREAMER_S3_UNSIGNED=1 for "
                "a public bucket"
            ) from error
        s3_settings(found)  # raises for what a profile has malformed
        return found

    def _given(self, names: Iterable[str]) -> dict[str, str]:
        return {name: self._environ[name] for name in names if self._environ.get(name)}

    def _resolved(self, given: Mapping[str, str]) -> dict[str, str]:
        if self._environ.get(EXPLICIT):
            return self._explicit()
        session = self._session if self._renewing else None
        if session is None:
            # A new session each time, because somebody may have renewed a file or variable.
            named = any(self._environ.get(name) for name in _PROFILES)
            session = self._session = Session(session_vars=None if named else _NO_PROFILE)
        found = _configured(session, given, self._endpoint())
        bundle = str(session.get_scoped_config().get("ca_bundle", ""))
        found |= authorities_of(self._environ, profile=bundle)
        if not flag(given, UNSIGNED, default=False):
            found |= self._credentials(session)
        return {name: value for name, value in found.items() if value}

    def _explicit(self) -> dict[str, str]:
        """Keys that a call gave, with variables alone: a profile's region is not meant for them."""
        found = self._given(SECRETS)
        region = self._environ.get("AWS_REGION") or self._environ.get("AWS_DEFAULT_REGION")
        if region:
            found["AWS_REGION"] = region
        if self._endpoint():
            found[SENT_ENDPOINT] = self._endpoint()
        return found | authorities_of(self._environ)

    def _endpoint(self) -> str:
        return next((self._environ[name] for name in ENDPOINTS if self._environ.get(name)), "")

    def _credentials(self, session: Session) -> dict[str, str]:
        given = [self._environ.get(name, "") for name in SECRETS]
        if given[0] and given[1]:
            return dict(zip(SECRETS, given, strict=True))
        credentials: Credentials | None = self._renewing or session.get_credentials()
        if credentials is None:
            return {}
        if isinstance(credentials, RefreshableCredentials):
            self._renewing = credentials
        frozen = credentials.get_frozen_credentials()
        values = (frozen.access_key or "", frozen.secret_key or "", frozen.token or "")
        return dict(zip(SECRETS, values, strict=True))


def _configured(session: Session, given: Mapping[str, str], endpoint: str) -> dict[str, str]:
    """What a profile says, where no variable says otherwise."""
    scoped: dict[str, Any] = session.get_scoped_config()
    s3 = scoped.get("s3")
    options: dict[str, Any] = s3 if isinstance(s3, dict) else {}
    region = given.get("AWS_REGION") or session.get_config_variable("region") or ""
    found = {
        "AWS_REGION": str(region),
        SENT_ENDPOINT: endpoint or _configured_endpoint(session, scoped),
    }
    for name, option in (
        ("AWS_USE_FIPS_ENDPOINT", scoped.get("use_fips_endpoint")),
        ("AWS_USE_DUALSTACK_ENDPOINT", scoped.get("use_dualstack_endpoint")),
        ("AWS_MAX_ATTEMPTS", scoped.get("max_attempts")),
        (VIRTUAL, {"path": "0", "virtual": "1"}.get(str(options.get("addressing_style")))),
    ):
        if option and not given.get(name):
            found[name] = str(option)
    return found


def _configured_endpoint(session: Session, scoped: Mapping[str, Any]) -> str:
    """`endpoint_url` of the profile's services section for s3, else of the profile."""
    if str(scoped.get("ignore_configured_endpoint_urls", "")).lower() == "true":
        return ""
    services: Mapping[str, Any] = session.full_config.get("services", {})
    section: Any = services.get(str(scoped.get("services", "")), {})
    s3: Any = section.get("s3", {}) if isinstance(section, dict) else {}
    own = s3.get("endpoint_url") if isinstance(s3, dict) else None
    return str(own or scoped.get("endpoint_url") or "")
