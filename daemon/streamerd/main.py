"""The `streamerd` program: puts the parts together, and takes them apart in order.

Owns start, signals, the idle clock and the end. One asyncio loop, in the foreground.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from streamer_client.contract.errors import ConfigError, StreamerError
from streamer_client.contract.limits import MAX_LOGGED_CHARACTERS
from streamer_client.contract.printable import printable
from streamer_client.contract.socket import descriptor_socket
from streamerd import __version__
from streamerd.answering.handovers import Handovers
from streamerd.answering.requests import Requests
from streamerd.answering.status import status_line
from streamerd.control.descriptors import DescriptorSocket
from streamerd.control.instance import Instance
from streamerd.control.listening import Listening, listen
from streamerd.control.lock import SocketLock
from streamerd.control.sessions import Session, Sessions
from streamerd.control.socket import ControlSocket
from streamerd.log_lines import stderr_handler
from streamerd.memory.check import doubts, own_bytes
from streamerd.memory.room import memory_room
from streamerd.notify import SignsOfLife, notify, reloading, watchdog_s
from streamerd.persist.keeper import Keeper, clean
from streamerd.service import Service
from streamerd.settings.arguments import daemon_parser, overrides_of
from streamerd.settings.config import Settings, check_user, config_body, load_settings
from streamerd.shm.slabs import mount_bytes
from streamerd.state import events
from streamerd.workers.in_daemon.supervisor import Fleet

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h; the unit does not restart after it."""
TICK_S = 1.0
STOP_GRACE_S = 5.0
_RELOADED: Final = {
    "memory_limit": "memory_limit_bytes",
    "bandwidth_limit": "bandwidth_limit_bytes",
    "log_level": "log_level",
}
"""Settings that SIGHUP takes over: key to field."""


class Daemon:
    """One life of the daemon."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        settings: Settings,
        origins: dict[str, str],
        instance: Instance,
    ) -> None:
        self._arguments = arguments
        self._instance = instance
        self._settings = settings
        self._origins = origins
        self._stopping = asyncio.Event()
        self._defect: BaseException | None = None
        self._idle_since_s = 0.0
        self._signs = SignsOfLife(watchdog_s(os.environ, os.getpid()), TICK_S)
        self._keep = True
        """Whether the next daemon shall find what is in memory."""

    async def run(self) -> None:
        """Serve until told to stop.

        Raises:
            StreamerError: the daemon cannot start here, or has met a defect of its own.
        """
        settings = self._settings
        fleet = Fleet(
            settings.workers,
            settings.threads,
            settings.log_level,
            connections=settings.connections,
        )
        self._service = service = Service(settings, fleet, self._instance.name)
        handovers = Handovers(fleet, service.discard, service.unclosed, settings.source_wait_s)
        self._requests = Requests(service, handovers, config_body(settings, self._origins))
        sessions = Sessions(self._gone)
        control = ControlSocket(settings.socket, sessions, self._requests.receive)
        descriptors = DescriptorSocket(
            sessions, handovers.take, service.discard, handovers.has_room
        )
        service.attach(sessions, control, descriptors)
        service.try_slabs()
        keeper = Keeper(service)
        await asyncio.get_running_loop().run_in_executor(None, keeper.inherit)
        self._watch_signals()
        asyncio.get_running_loop().set_exception_handler(self._give_up)
        try:
            await fleet.start()
            keeper.adopt()
            with self._listening() as (messages, files):
                control.open(messages.duplicate())
                descriptors.open(files.socket)
                self._announce_ready()
                self._idle_since_s = asyncio.get_running_loop().time()
                self._tick()
                await self._stopping.wait()
                notify("STOPPING=1", "STATUS=stopping")
                descriptors.close()
                control.close()
        finally:
            control.close()
            sessions.close()
            await service.stop(STOP_GRACE_S)
            keep = self._keep and not settings.ephemeral
            keeper.leave(keep=keep, sound=self._defect is None)
            if settings.ephemeral:
                self._instance.remove()
        if self._defect is not None:
            raise StreamerError(
                f"stopped by a defect ({self._defect!r}); please report it with the log"
            ) from self._defect

    @contextlib.contextmanager
    def _listening(self) -> Iterator[tuple[Listening, Listening]]:
        """The daemon's two sockets; clients look for that of descriptors, so it comes last."""
        path, mode = self._settings.socket, self._settings.socket_mode_bits
        with (
            contextlib.closing(listen(path, mode, socket.SOCK_STREAM)) as messages,
            contextlib.closing(
                listen(descriptor_socket(path), mode, socket.SOCK_SEQPACKET)
            ) as files,
        ):
            yield messages, files

    def _gone(self, session: Session) -> None:
        """A client left or died."""
        self._service.control.forget(session)
        self._service.descriptors.forget(session)
        self._requests.gone(session)

    def _give_up(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Stop on an error that nobody handled: a turn that broke off leaves the account untrue.

        Clients read on by themselves, and whoever supervises this process starts it anew.
        """
        self._defect = context.get("exception") or RuntimeError(context["message"])
        logger.critical("defect: %s", context["message"], exc_info=self._defect)
        self._stopping.set()

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _interrupted(self) -> None:
        """Somebody at a terminal is done with it, and would not look for its memory later."""
        self._keep = False
        self._stopping.set()

    def _announce_ready(self) -> None:
        settings = self._settings
        logger.info(
            "ready version=%s pid=%d socket=%s memory_limit_bytes=%d memory_limit_from=%r "
            "workers=%d threads=%d",
            __version__, os.getpid(), settings.socket, settings.memory_limit_bytes,
            self._origins["memory_limit"], settings.workers, settings.threads,
        )  # fmt: skip
        self._warn_of_little_memory()
        notify("READY=1", f"STATUS={status_line(self._service)}")
        if self._arguments.ready_fd is not None:
            os.write(self._arguments.ready_fd, b"READY\n")
            os.close(self._arguments.ready_fd)

    def _warn_of_little_memory(self) -> None:
        settings = self._settings
        limit_bytes = settings.memory_limit_bytes
        total_bytes, free_bytes = mount_bytes()
        free_bytes += self._service.model.ledger.used_bytes  # adopted: within the limit already
        if free_bytes < limit_bytes:
            logger.warning(
                "shared-memory mount has less room than memory_limit free_bytes=%d total_bytes=%d "
                "memory_limit_bytes=%d; loads will wait when it is full",
                free_bytes, total_bytes, limit_bytes,
            )  # fmt: skip
        own = own_bytes(settings.workers, settings.threads, settings.block_bytes)
        for doubt in doubts(limit_bytes, own, memory_room()):
            logger.warning("memory is tight: %s", doubt)

    def _tick(self) -> None:
        """Let time pass for the core, and see who is still there."""
        loop = asyncio.get_running_loop()
        service = self._service
        service.post(events.Tick(service.now_s))
        service.tick()
        if len(service.sessions) or service.model.loads:
            self._idle_since_s = loop.time()
        elif (
            self._settings.ephemeral
            and loop.time() - self._idle_since_s >= self._settings.idle_exit_s
        ):
            logger.info("idle, leaving idle_exit_s=%g", self._settings.idle_exit_s)
            self._stopping.set()
        self._signs.tick(loop.time(), status_line(service))
        loop.call_later(self._signs.tick_s, self._tick)

    def _reload(self) -> None:
        """Read the configuration again, and let systemd know when that is done."""
        reloading()
        try:
            self._read_again()
        finally:
            notify("READY=1")

    def _read_again(self) -> None:
        """Take a changed configuration over, as far as that goes without a restart."""
        try:
            settings, origins = _load(self._arguments)
        except ConfigError as error:
            logger.error("configuration not reloaded: %s", error)
            return
        logging.getLogger().setLevel(settings.log_level.upper())
        limit_bytes = settings.memory_limit_bytes
        self._service.post(events.LimitChanged(self._service.now_s, limit_bytes))
        self._service.fetches.pace.set_rate(settings.bandwidth_limit_bytes)
        self._take_over(settings, origins)
        logger.info("configuration reloaded memory_limit_bytes=%d", limit_bytes)

    def _take_over(self, settings: Settings, origins: dict[str, str]) -> None:
        """Note what is in effect now, which is what `config` shows."""
        taken = {key: getattr(settings, key) for key in _RELOADED.values()}
        self._origins |= {name: origins[name] for name in _RELOADED}
        self._settings = msgspec.structs.replace(self._settings, **taken)
        self._requests.config_body = config_body(self._settings, self._origins)
        if self._settings != settings:
            fields = settings.__struct_fields__
            changed = [f for f in fields if getattr(settings, f) != getattr(self._settings, f)]
            logger.warning("restart to take over changed settings=%s", ",".join(changed))


def _load(arguments: argparse.Namespace) -> tuple[Settings, dict[str, str]]:
    return load_settings(overrides_of(arguments), os.environ, arguments.config)


def _lock(settings: Settings) -> SocketLock:
    return SocketLock(settings.socket, private=not settings.socket_mode_bits & 0o077)


def _raise_descriptor_limit() -> None:
    """Take all descriptors that may be had: soft limits stand for programs that use select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _clean(settings: Settings) -> None:
    with _lock(settings), Instance.of(settings.socket) as instance:
        slabs = clean(settings.socket, instance.name)
        instance.remove()
    sys.stderr.write(f"streamerd: {slabs} slabs of {settings.socket} removed\n")


async def _run(arguments: argparse.Namespace, settings: Settings, origins: dict[str, str]) -> None:
    with _lock(settings), Instance.of(settings.socket) as instance:
        await Daemon(arguments, settings, origins, instance).run()


def _complain(error: StreamerError) -> None:
    sys.stderr.write(f"streamerd: {printable(str(error), MAX_LOGGED_CHARACTERS)}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; returns the exit code."""
    arguments = daemon_parser().parse_args(argv)
    # systemd ends a hung daemon with SIGABRT: its log then shows where it hung.
    faulthandler.enable()
    try:
        settings, origins = _load(arguments)
        logging.basicConfig(
            level=settings.log_level.upper(),
            handlers=[stderr_handler("%(levelname)s %(name)s %(message)s")],
        )
        check_user(settings, os.geteuid())
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


if __name__ == "__main__":
    sys.exit(main())
