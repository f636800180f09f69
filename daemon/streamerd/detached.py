"""`python -P -m streamerd.detached`: the daemon that a client starts for its user.

This program resets the processors, niceness, limits and signals that the process inherited from the
client that started it, since the daemon also serves other clients. It runs in the daemon's own
process before all else. At that time there is one thread, which matters since affinity and priority
belong to threads. Libraries that size themselves by these are not loaded yet. The client that
starts the daemon sets working folder, module path, umask and streams
(`streamer_client.connecting.own_daemon`).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from typing import Final

MOST_PROCESSORS: Final = 8192
"""More processors than any kernel supports. The kernel ignores those that do not exist or are
forbidden."""
RAISED_LIMITS: Final = (
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_NPROC,
)
_STAY_IGNORED: Final = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Signals that Python itself ignores, to raise errors instead."""


def reset_inherited() -> list[str]:
    """Undo what was inherited, as far as the user may; returns a text for each failure."""
    stays: list[str] = []
    _reset_signals()
    for change, name in (
        (_use_all_processors, "affinity"),
        (_be_scheduled_plainly, "scheduling policy"),
        (_be_as_nice_as_others, "niceness"),
    ):
        try:
            change()
        except OSError as error:
            stays.append(f"{name}: {error.strerror}")
    for limit in RAISED_LIMITS:
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (hard, hard))
    # A core file would contain the credentials that clients sent to read their sources.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    return stays


def _reset_signals() -> None:
    for number in signal.valid_signals() - _STAY_IGNORED:
        if signal.getsignal(number) == signal.SIG_IGN:
            with contextlib.suppress(OSError):  # the C library reserves some signals for itself
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _use_all_processors() -> None:
    os.sched_setaffinity(0, range(MOST_PROCESSORS))


def _be_scheduled_plainly() -> None:
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _be_as_nice_as_others() -> None:
    """Set niceness 0. Lowering the niceness needs a right that users often lack (RLIMIT_NICE)."""
    if os.getpriority(os.PRIO_PROCESS, 0) != 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def main() -> int:
    """Reset what was inherited, then run the daemon; returns the exit code."""
    stays = reset_inherited()
    from streamerd.main import main as daemon  # noqa: PLC0415  after the reset, see above

    for text in stays:
        sys.stderr.write(f"WARNING {__name__} event=inherited_setting_stays setting={text}\n")
    return daemon()


if __name__ == "__main__":
    sys.exit(main())
