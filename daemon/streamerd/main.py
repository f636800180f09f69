"""The `streamerd` program: command line, log, the socket's lock; then one life of the daemon.

Runs in the main process, in the foreground; `daemon.py` owns what happens in its loop.
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
from streamerd.shm.slabs import readonly_mount

EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 78
"""EX_CONFIG of sysexits.h; the unit does not restart after it."""


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
    """Print what a start would run with, after the checks that are otherwise made by a start alone.

    Raises:
        ConfigError: a start would end with this.
    """
    readonly_mount(settings.readonly_shm)
    limit = format_size(settings.memory_limit_bytes)
    sys.stderr.write(
        f"streamerd: the configuration is good: memory_limit {limit} ({origins['memory_limit']}), "
        f"socket {settings.socket}\n"
    )


def _clean(settings: Settings) -> None:
    with _lock(settings), Instance.of(settings.socket) as instance:
        slabs = clean(settings.socket, instance.name)
        instance.remove()
    sys.stderr.write(f"streamerd: {slabs} slabs of {settings.socket} removed\n")


def _lock(settings: Settings) -> SocketLock:
    return SocketLock(settings.socket, private=not settings.socket_mode_bits & 0o077)


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one: it is low only for users of select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _complain(error: StreamerError) -> None:
    sys.stderr.write(last_words(f"streamerd: {error}"))


if __name__ == "__main__":
    sys.exit(main())
