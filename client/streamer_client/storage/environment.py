"""Variables in the environments of all sources that are read over HTTP.

Owns which variables stand for the settings of connections and retries, and how certificates travel
in place of a file's path. Each store's folder owns its own variables, and `http/` owns the settings
themselves. `http_environment` and `authorities_of` run in the client's process; everything else
also runs in workers, on the environment that a client sent.

| variable | meaning |
|---|---|
| `AWS_CA_BUNDLE`, else `SSL_CERT_FILE` | a PEM file of the authorities to trust |
| `STREAMER_TLS_VERIFY` | 0: trust any certificate |
| `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY` | see `http/proxies.py` |
| `RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS` | the longest silence of a server |
| `RUNAI_STREAMER_S3_MAX_RETRIES`, else `AWS_MAX_ATTEMPTS` | attempts in a row without a byte |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.proxies import proxies_of
from streamer_client.storage.http.retry import RetryPolicy
from streamer_client.storage.http.settings import READ_TIMEOUT_S, HttpSettings, SettingNames
from streamer_client.storage.http.transport.tls import read_bundle

AUTHORITIES: Final = "STREAMER_TLS_AUTHORITIES"
"""Certificates in PEM to trust instead of the system's. A client sends them in place of the path
that its user set; no user sets this variable."""

_VERIFY: Final = "STREAMER_TLS_VERIFY"
_TIMEOUT_MS: Final = "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS"
_RETRIES: Final = "RUNAI_STREAMER_S3_MAX_RETRIES"
_ATTEMPTS: Final = "AWS_MAX_ATTEMPTS"

_LARGEST: Final = 1_000_000_000
"""The largest number that a variable may have; in milliseconds it is eleven days."""

HTTP_VARIABLES: Final = (
    _VERIFY,
    _TIMEOUT_MS,
    *(
        name
        for proxy in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
        for name in (proxy, proxy.upper())
    ),
    _RETRIES,
    _ATTEMPTS,
)
"""The variables that are sent with an open just as the client has them."""

_NAMES: Final = SettingNames("AWS_CA_BUNDLE or SSL_CERT_FILE", _TIMEOUT_MS)


def http_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of `HTTP_VARIABLES` that are set, and the certificates of the CA bundle.

    Raises:
        ConfigError: the bundle cannot be used.
    """
    found = {name: environ[name] for name in HTTP_VARIABLES if environ.get(name)}
    return found | authorities_of(environ)


def authorities_of(environ: Mapping[str, str], *, profile: str = "") -> dict[str, str]:
    """The certificates of the file that the client's user names.

    Args:
        environ: all variables of the client's process; `AWS_CA_BUNDLE` wins over a profile's file,
            and `SSL_CERT_FILE` comes last.
        profile: the file that a profile's `ca_bundle` names.

    Returns:
        The variable with the certificates; nothing if no file is named, and then each process
        trusts its own system's authorities.

    Raises:
        ConfigError: the file cannot be used; the text says which variable names it.
    """
    named = (
        ("AWS_CA_BUNDLE", environ.get("AWS_CA_BUNDLE", "")),
        ("ca_bundle of the profile", profile),
        ("SSL_CERT_FILE", environ.get("SSL_CERT_FILE", "")),
    )
    who, path = next(((who, path) for who, path in named if path), ("", ""))
    return {AUTHORITIES: read_bundle(who, os.path.expanduser(path))} if path else {}


def http_settings(environment: Mapping[str, str]) -> HttpSettings:
    """The settings of connections; only `STREAMER_TLS_VERIFY=0` turns verification off.

    Raises:
        ConfigError: a variable is malformed; the text names it.
    """
    timeout_ms = whole_number(environment, _TIMEOUT_MS)
    return HttpSettings(
        authorities=environment.get(AUTHORITIES, ""),
        verify=flag(environment, _VERIFY, default=True),
        proxies=proxies_of(environment),
        read_timeout_s=timeout_ms / 1000 if timeout_ms else READ_TIMEOUT_S,
        names=_NAMES,
    )


def retry_policy(environment: Mapping[str, str]) -> RetryPolicy:
    """The retries that `RUNAI_STREAMER_S3_MAX_RETRIES` or `AWS_MAX_ATTEMPTS` allow.

    The former counts attempts after the first one and wins; the latter counts all attempts.

    Raises:
        ConfigError: a variable is malformed.
    """
    retries = whole_number(environment, _RETRIES)
    attempts = whole_number(environment, _ATTEMPTS)
    if retries is not None:
        return RetryPolicy(max_attempts=retries + 1)
    if attempts is None:
        return RetryPolicy()
    if attempts == 0:
        raise ConfigError("AWS_MAX_ATTEMPTS=0: would never ask at all; set at least 1")
    return RetryPolicy(max_attempts=attempts)


def flag(environment: Mapping[str, str], name: str, *, default: bool) -> bool:
    """The value of a variable that is 0 or 1, or false or true.

    Raises:
        ConfigError: the variable has another value.
    """
    text = environment.get(name, "").strip().lower()
    if not text:
        return default
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ConfigError(f"{name}={text!r}: neither 0 nor 1; set one of them, or unset it")


def whole_number(environment: Mapping[str, str], name: str) -> int | None:
    """The value of a variable that is a number from 0 to a thousand million; None if not set.

    Raises:
        ConfigError: the variable has another value.
    """
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"{name}={text!r}: not a whole number; give one, or unset it")
    # System calls take no longer timeout, and `int` takes no text of more than some 4300 digits.
    if len(text) > len(str(_LARGEST)) or int(text) > _LARGEST:
        raise ConfigError(f"{name}: is larger than {_LARGEST}; give a smaller number, or unset it")
    return int(text)


def missing_extra(uri: str, extra: str, error: ImportError) -> ConfigError:
    """The error for credentials whose optional library is not installed.

    Args:
        uri: the source.
        extra: the extra of this distribution that installs the library.
        error: the error that names the missing library.
    """
    return ConfigError(
        f"{uri}: the library {error.name or error} is needed for these credentials and is not "
        f"installed; pip install 'streamerd[{extra}]' where vLLM or streamerctl runs (the daemon "
        "does not need it)"
    )
