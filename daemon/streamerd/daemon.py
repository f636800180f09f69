"""One life of the daemon: start, serving, the idle clock, a reload, and the end, in this order.

This module leaves the daemon's parts to `parts.py`, and the process (command line, log, lock) to
`main.py`. Runs in the main process's loop.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from streamer_client.contract.errors import ConfigError, StreamerError
from streamer_client.contract.socket import descriptor_socket
from streamerd import __version__
from streamerd.answering.status import status_line
from streamerd.control.instance import Instance
from streamerd.control.listening import Listening, listen
from streamerd.memory.check import doubts, own_bytes
from streamerd.memory.room import memory_room
from streamerd.notify import SignsOfLife, notify, reloading, watchdog_s
from streamerd.observe.listener import MetricsListener
from streamerd.observe.metrics import registry
from streamerd.parts import Parts
from streamerd.persist.persistence import Persistence
from streamerd.settings.arguments import settings_of
from streamerd.settings.config import Settings, config_body
from streamerd.shm.slabs import mount_bytes
from streamerd.start_list import StartList
from streamerd.state import events
from streamerd.workers.in_daemon.supervisor import Workers

logger = logging.getLogger(__name__)

TICK_S: Final = 1.0
STOP_GRACE_S: Final = 5.0
_RELOADED: Final = {
    "memory_limit": "memory_limit_bytes",
    "bandwidth_limit": "bandwidth_limit_bytes",
    "log_level": "log_level",
}
"""Settings that a reload (SIGHUP) applies, by key. All others need a restart."""


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
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._defect: BaseException | None = None
        self._idle_since_s = 0.0
        self._signs = SignsOfLife(watchdog_s(os.environ, os.getpid()), TICK_S)
        self._persists = not settings.ephemeral
        """Whether the slabs stay in memory at the end, for the next daemon to adopt."""
        workers = Workers(
            settings.workers,
            settings.threads,
            settings.log_level,
            connections=settings.connections,
            log_format=settings.log_format,
        )
        self._start_list = StartList(settings.socket, settings.prefetch, settings.log_format)
        self.parts = parts = Parts(settings, workers, instance.name, self._config)
        self._metrics = MetricsListener(registry(parts.observed()), self._loop.time)
        self._persistence = Persistence(
            settings, instance.name, parts.model, parts.turns, parts.shards, parts.slabs,
            parts.editions,
        )  # fmt: skip

    async def run(self) -> None:
        """Serve until told to stop.

        Raises:
            StreamerError: the daemon cannot start here, or has met a defect of its own.
        """
        self.parts.slabs.try_one()
        await self._loop.run_in_executor(None, self._persistence.adopt)
        self._watch_signals()
        self._loop.set_exception_handler(self._give_up)
        try:
            await self._serve()
        finally:
            await self._end()
        if self._defect is not None:
            raise StreamerError(
                f"stopped by a defect ({self._defect!r}); please report it with the log"
            ) from self._defect

    async def _serve(self) -> None:
        parts = self.parts
        await parts.workers.start()
        await self._start_list.prepare()
        self._persistence.enter_adopted()
        with self._listening() as (messages, files):
            parts.control.open(messages.duplicate(), parts.requests.receive)
            parts.descriptors.open(files.socket)
            if self._settings.metrics_listen:
                self._metrics.open(self._settings.metrics_listen, self._settings.socket_mode_bits)
            if parts.beside is not None:
                parts.beside.start()
            self._announce_ready()
            self._start_list.begin()
            self._idle_since_s = self._loop.time()
            self._tick()
            await self._stopping.wait()
            notify("STOPPING=1", "STATUS=stopping")
            parts.descriptors.close()
            parts.control.close()

    async def _end(self) -> None:
        parts = self.parts
        self._metrics.close()
        parts.control.close()
        parts.sessions.close()
        await self._start_list.stop()
        await parts.stop(STOP_GRACE_S)
        logger.info("event=stopped pid=%d", os.getpid())
        self._persistence.leave(persist=self._persists, sound=self._defect is None)
        if self._settings.ephemeral:
            self._instance.remove()

    @contextlib.contextmanager
    def _listening(self) -> Iterator[tuple[Listening, Listening]]:
        """Make the two sockets; clients look for the descriptor socket, so it comes last."""
        path, mode = self._settings.socket, self._settings.socket_mode_bits
        with (
            contextlib.closing(listen(path, mode, socket.SOCK_STREAM)) as messages,
            contextlib.closing(
                listen(descriptor_socket(path), mode, socket.SOCK_SEQPACKET)
            ) as files,
        ):
            yield messages, files

    def _give_up(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Stop on an unhandled error: a turn that broke off leaves the ledger wrong.

        Clients then read by themselves, and systemd or the user starts the daemon again.
        """
        self._defect = context.get("exception") or RuntimeError(context["message"])
        logger.critical("event=defect error=%s", context["message"], exc_info=self._defect)
        self._stopping.set()

    # --- signals --------------------------------------------------------------------------------

    def _watch_signals(self) -> None:
        self._loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        self._loop.add_signal_handler(signal.SIGINT, self._interrupted)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _interrupted(self) -> None:
        """Stop and leave no slab: a user who presses Ctrl-C would not look for the memory later."""
        self._persists = False
        self._stopping.set()

    def _reload(self) -> None:
        """Read the configuration again, and let systemd know when that is done."""
        reloading()
        try:
            self._read_again()
        finally:
            notify("READY=1")

    def _read_again(self) -> None:
        """Apply a changed configuration, as far as that goes without a restart."""
        try:
            settings, origins = settings_of(self._arguments)
        except ConfigError as error:
            logger.error("event=configuration_not_reloaded error=%s", error)
            return
        logging.getLogger().setLevel(settings.log_level.upper())
        limit_bytes, turns = settings.memory_limit_bytes, self.parts.turns
        turns.post(events.LimitChanged(turns.now_s, limit_bytes))
        self.parts.fetches.pace.set_rate(settings.bandwidth_limit_bytes)
        self._note_applied(settings, origins)
        logger.info("event=configuration_reloaded memory_limit_bytes=%d", limit_bytes)

    def _note_applied(self, settings: Settings, origins: dict[str, str]) -> None:
        """Note the settings that are in effect now, for `streamerctl config`."""
        applied = {key: getattr(settings, key) for key in _RELOADED.values()}
        self._origins |= {name: origins[name] for name in _RELOADED}
        self._settings = msgspec.structs.replace(self._settings, **applied)
        if self._settings != settings:
            fields = settings.__struct_fields__
            changed = [f for f in fields if getattr(settings, f) != getattr(self._settings, f)]
            logger.warning("event=settings_need_restart settings=%s", ",".join(changed))

    def _config(self) -> dict[str, object]:
        return config_body(self._settings, self._origins)

    # --- while it runs --------------------------------------------------------------------------

    def _announce_ready(self) -> None:
        settings = self._settings
        logger.info(
            "event=ready version=%s pid=%d socket=%s memory_limit_bytes=%d memory_limit_from=%r "
            "workers=%d threads=%d",
            __version__, os.getpid(), settings.socket, settings.memory_limit_bytes,
            self._origins["memory_limit"], settings.workers, settings.threads,
        )  # fmt: skip
        self._warn_of_little_memory()
        notify("READY=1", f"STATUS={status_line(self.parts.facts)}")
        if self._arguments.ready_fd is not None:
            os.write(self._arguments.ready_fd, b"READY\n")
            os.close(self._arguments.ready_fd)

    def _warn_of_little_memory(self) -> None:
        settings = self._settings
        limit_bytes = settings.memory_limit_bytes
        total_bytes, free_bytes = mount_bytes()
        adopted_bytes = self.parts.model.ledger.used_bytes  # adoption kept within the limit
        if free_bytes + adopted_bytes < limit_bytes:
            logger.warning(
                "event=shared_memory_mount_too_small free_bytes=%d total_bytes=%d "
                "memory_limit_bytes=%d effect=%r",
                free_bytes + adopted_bytes, total_bytes, limit_bytes,
                "loads will wait when it is full",
            )  # fmt: skip
        own = own_bytes(settings.workers, settings.threads, settings.block_bytes)
        for doubt in doubts(limit_bytes, own, memory_room()):
            logger.warning("event=memory_tight reason=%r", doubt)

    def _tick(self) -> None:
        """Let time pass for the core and other parts, and stop if the daemon was idle too long."""
        parts, now_s = self.parts, self._loop.time()
        parts.turns.post(events.Tick(parts.turns.now_s))
        parts.slabs.look_at_lingering()
        if len(parts.sessions) or parts.model.loads:
            self._idle_since_s = now_s
        elif self._settings.ephemeral and now_s - self._idle_since_s >= self._settings.idle_exit_s:
            logger.info("event=idle_exit idle_exit_s=%g", self._settings.idle_exit_s)
            self._stopping.set()
        self._signs.tick(now_s, status_line(parts.facts))
        self._loop.call_later(self._signs.tick_s, self._tick)
