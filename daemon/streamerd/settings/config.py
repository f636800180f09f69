"""Decides the value of each of the daemon's settings, which may come from four places.

This module owns the order of precedence (command-line flag, then `STREAMERD_*` variable, then TOML
file, then default) and the checks that need more than one value. It leaves the keys to `table.py`,
and the flags to `arguments.py`. Runs in the daemon's main process: before anything else, and at
each reload.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.layout import (
    WINDOW_BLOCKS,
)
from streamer_client.contract.options import MODE_ENV
from streamer_client.contract.sizes import exact_size, format_size, parse_size
from streamer_client.contract.socket import DESCRIPTOR_SUFFIX, MAX_SOCKET_PATH_BYTES, SUN_PATH_BYTES
from streamer_client.storage.os_errors import absolute_path
from streamer_client.storage.registry import public_uri
from streamerd.memory.check import contradiction, default_limit, own_bytes
from streamerd.memory.room import MemoryRoom, memory_room
from streamerd.settings.fleet import check_fleet
from streamerd.settings.parallel import processors
from streamerd.settings.table import ENV_PREFIX, KEYS, Context, Key, Settings
from streamerd.settings.values import Prefetched

__all__ = [
    "SYSTEM_CONFIG",
    "Settings",
    "check_user",
    "config_body",
    "load_settings",
    "nearest_name",
]

DEFAULT: Final = "default"
"""The origin of a value that was given nowhere."""
SYSTEM_CONFIG: Final = "/etc/streamerd/streamerd.toml"
CLIENT_ENV: Final = frozenset(
    {MODE_ENV, "STREAMERD_RING", "STREAMERD_RING_LIBRARY", "STREAMERD_SHARD_WRITER"}
)
"""Variables with the prefix `STREAMERD_` that only clients read. A daemon that a client starts
inherits them, so they must not be refused as unknown settings."""
_SERVICE_LINK: Final = re.compile(
    r"STREAMERD_(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?)"
)
"""Variables that Kubernetes sets in every pod beside a Service whose name begins with `streamerd`.
They are no settings."""


class Given(NamedTuple):
    """A value as it was given: a string from a flag or variable, or of any type from TOML."""

    raw: object
    origin: str
    is_text: bool = True


_BY_NAME: Final = {key.name: key for key in KEYS}


def load_settings(
    overrides: Mapping[str, object],
    environ: Mapping[str, str],
    toml_path: str | None = None,
    room: MemoryRoom | None = None,
) -> tuple[Settings, dict[str, str]]:
    """Decide the value of every setting.

    Args:
        overrides: key name to raw value, from flags.
        environ: the process environment.
        toml_path: the file to read; None reads `SYSTEM_CONFIG` if it exists.
        room: memory ceilings; None asks the machine.

    Returns:
        The settings, and for each key where its value came from.

    Raises:
        ConfigError: an unknown key or a value that is malformed or impossible here.
    """
    given = _from_toml(toml_path) | _from_environ(environ) | _from_flags(overrides)
    fields = {_BY_NAME[name].field: _typed(_BY_NAME[name], value) for name, value in given.items()}
    context = _fill_defaults(fields, environ, room)
    origins = {key.name: given[key.name].origin if key.name in given else DEFAULT for key in KEYS}
    default = default_limit(context.room, context.block_bytes)
    if "memory_limit" not in given and default is not None:
        origins["memory_limit"] = f"{DEFAULT} ({default.origin})"
    settings = msgspec.convert(fields, Settings)
    _check(settings, context.room, origins)
    check_fleet(settings)
    return settings, origins


def check_user(settings: Settings, uid: int) -> None:
    """Refuse to lend root's rights to other users. The caller does this before it makes any file.

    Raises:
        ConfigError: the daemon would run as root, other users could use it, and `allow_root` does
            not say that this is meant.
    """
    if uid != 0 or not settings.socket_mode_bits & 0o077 or settings.allow_root:
        return
    raise ConfigError(
        f"the daemon would run as root, and socket_mode {settings.socket_mode} lets others use it "
        f"at {settings.socket}. Run it as a user of its own, as the systemd unit does; or set "
        "socket_mode to 0600, for root alone; or set allow_root to true if that is meant"
    )


def config_body(settings: Settings, origins: Mapping[str, str]) -> dict[str, object]:
    """The body of the `Config` message: key to `{"value", "origin"}`; sizes in bytes.

    Every user of the daemon may see it, so it has sources without the secrets in their URLs.
    """
    public = msgspec.structs.replace(settings, prefetch=tuple(map(_public, settings.prefetch)))
    return {
        key.name: {
            "value": msgspec.to_builtins(getattr(public, key.field)),
            "origin": origins[key.name],
        }
        for key in KEYS
    }


def _public(listed: Prefetched) -> Prefetched:
    return msgspec.structs.replace(listed, source=public_uri(listed.source))


def _fill_defaults(
    fields: dict[str, Any], environ: Mapping[str, str], room: MemoryRoom | None
) -> Context:
    context = Context(environ, room or memory_room(), processors=processors())
    if "block_bytes" not in fields:
        fields["block_bytes"] = _BY_NAME["block_size"].default(context)
    if "socket" not in fields:
        fields["socket"] = _BY_NAME["socket"].default(context)
    fields["socket"] = absolute_path(fields["socket"])
    if room is None:  # this is the real machine, where other daemons may run
        context = context._replace(room=context.room.beside(fields["socket"]))
    context = context._replace(block_bytes=fields["block_bytes"], socket=fields["socket"])
    if "workers" not in fields:
        fields["workers"] = _BY_NAME["workers"].default(context)
    context = context._replace(workers=fields["workers"])
    for key in KEYS:
        if key.field not in fields:
            fields[key.field] = key.default(context)
    return context


def _from_flags(overrides: Mapping[str, object]) -> dict[str, Given]:
    return {
        name: Given(raw, f"flag {_known(name, _BY_NAME, 'flag').flag}", isinstance(raw, str))
        for name, raw in overrides.items()
    }


def _from_toml(toml_path: str | None) -> dict[str, Given]:
    path = toml_path or SYSTEM_CONFIG
    if toml_path is None and not os.path.exists(path):
        return {}
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from error
    except ValueError as error:  # TOMLDecodeError, or bytes that are not UTF-8
        raise ConfigError(f"configuration {path} is not valid TOML: {error}") from error
    for name in document:
        _known(name, _BY_NAME, f"key in {path}")
    return {name: Given(raw, path, is_text=False) for name, raw in document.items()}


def _from_environ(environ: Mapping[str, str]) -> dict[str, Given]:
    by_env = {key.env: key for key in KEYS}
    values: dict[str, Given] = {}
    for variable, raw in environ.items():
        ours = variable.startswith(ENV_PREFIX) and variable not in CLIENT_ENV
        if ours and not _SERVICE_LINK.fullmatch(variable) and raw:
            key = _known(variable, by_env, "environment variable")
            values[key.name] = Given(raw, f"environment {variable}")
    return values


def _known(name: str, known: Mapping[str, Key], what: str) -> Key:
    if name in known:
        return known[name]
    nearest = nearest_name(name, known)
    raise ConfigError(f"unknown {what}: {name}; did you mean {nearest}? Correct or remove it")


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The known name that is most like an unknown one."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def _typed(key: Key, given: Given) -> object:
    try:
        value = parse_size(given.raw) if key.is_size else given.raw
        if key.reads is not None:
            value = key.reads(value)
        return msgspec.convert(value, key.type, strict=not given.is_text)
    except ValueError as error:
        # The texts of msgspec's errors name Python's types, which users do not know.
        wrong = isinstance(error, msgspec.ValidationError)
        what = f"{given.raw!r} is not possible" if wrong else str(error)
        raise ConfigError(f"{key.name} ({given.origin}): {what}; set it to {key.wants}") from error


def _check(settings: Settings, room: MemoryRoom, origins: Mapping[str, str]) -> None:
    path_bytes = len(os.fsencode(settings.socket))
    if path_bytes > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"socket ({origins['socket']}): {settings.socket} has {path_bytes} bytes and may "
            f"have {MAX_SOCKET_PATH_BYTES}: a unix socket's path holds {SUN_PATH_BYTES}, and that "
            f"of its descriptor socket ends in {DESCRIPTOR_SUFFIX}; choose a shorter path"
        )
    limit_bytes = settings.memory_limit_bytes
    given = f"{limit_bytes} bytes ({format_size(limit_bytes)})"
    where = f"memory_limit ({origins['memory_limit']}) is {given}"
    window_bytes = WINDOW_BLOCKS * settings.block_bytes
    if limit_bytes < window_bytes:
        raise ConfigError(
            f"{where}, less than the smallest window of {WINDOW_BLOCKS} blocks of "
            f"{exact_size(settings.block_bytes)} = {window_bytes} bytes; raise memory_limit or "
            "lower block_size"
        )
    if origins["memory_limit"].startswith(DEFAULT):
        return  # the default is half of the lowest ceiling and never contradicts one
    own = own_bytes(settings.workers, settings.threads, settings.block_bytes)
    if against := contradiction(limit_bytes, own, room):
        raise ConfigError(f"{where}, {against}")
