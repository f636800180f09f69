"""The `streamerd` program: sets up command line, log and the socket's lock, then runs the daemon.

It runs in the main process, in the foreground. `daemon.py` owns all that happens in the loop.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import os
import resource
import sys
from collections.abc import Sequence
from typing import Final

from streamer_client.contract.errors import ConfigError, StreamerError
from streamer_client.contract.sizes import format_size
from streamerd.control.instance import Instance
from streamerd.control.lock import SocketLock
from streamerd.daemon import Daemon
from streamerd.log_lines import last_words, stderr_handler
from streamerd.persist.persistence import clean
from streamerd.settings.arguments import daemon_parser, settings_of
from streamerd.settings.config import Settings, check_user
from streamerd.settings.fleet import terms_of
from streamerd.shm.slabs import readonly_mount

EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 78
"""EX_CONFIG of sysexits.h. The systemd unit does not restart the daemon after this exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; returns the exit code."""
    arguments = daemon_parser().parse_args(argv)
    # systemd ends a hung daemon with SIGABRT: its log then shows where it hung.
    faulthandler.enable()
    try:
        settings, origins = settings_of(arguments)
        logging.basicConfig(
            level=settings.log_level.upper(),
            handlers=[stderr_handler("%(levelname)s %(name)s %(message)s", settings.log_format)],
        )
        check_user(settings, os.geteuid())
        if arguments.check:
            _check(settings, origins)
            return 0
        _raise_descriptor_limit()
        if arguments.clean:
            _clean(settings)
            return 0
        asyncio.run(_run(arguments, settings, origins))
    except ConfigError as error:
        _complain(error)
        return EXIT_CONFIG
    except StreamerError as error:
        _complain(error)
        return EXIT_FAILED
    return 0


async def _run(arguments: argparse.Namespace, settings: Settings, origins: dict[str, str]) -> None:
    with _lock(settings), Instance.of(settings.socket) as instance:
        await Daemon(arguments, settings, origins, instance).run()


def _check(settings: Settings, origins: dict[str, str]) -> None:
    """Make the checks that a start makes, and print the settings that it would run with.

    Raises:
        ConfigError: a start would fail with this error.
    """
    readonly_mount(settings.readonly_shm)
    if settings.fleet:
        _check_certificates(settings)
    limit = format_size(settings.memory_limit_bytes)
    sys.stderr.write(
        f"streamerd: the configuration is good: memory_limit {limit} ({origins['memory_limit']}), "
        f"socket {settings.socket}\n"
    )


def _check_certificates(settings: Settings) -> None:
    """Say which certificates cannot be used. A daemon starts without them, and reads the store."""
    from streamerd.fleet.tls import server_context  # noqa: PLC0415  only a fleet imports it

    files = terms_of(settings).certificates
    try:
        if files is not None:
            server_context(files)
    except ConfigError as error:
        sys.stderr.write(f"streamerd: warning: {error}. Until then loads read the store\n")


def _clean(settings: Settings) -> None:
    with _lock(settings), Instance.of(settings.socket) as instance:
        slabs = clean(settings.socket, instance.name)
        instance.remove()
    sys.stderr.write(f"streamerd: {slabs} slabs of {settings.socket} removed\n")


def _lock(settings: Settings) -> SocketLock:
    return SocketLock(settings.socket, private=not settings.socket_mode_bits & 0o077)


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one: only select(2) needs a low one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _complain(error: StreamerError) -> None:
    sys.stderr.write(last_words(f"streamerd: {error}"))


if __name__ == "__main__":
    sys.exit(main())
