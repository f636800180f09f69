"""`python -P -m streamerd.detached`: the daemon that a client starts for its user.

Resets what the process inherited from the client that happened to start it: processors, niceness,
limits and signals, which should not differ for the other clients that the daemon serves. Runs in
the daemon's own process before anything else does: while there is one thread, since affinity and
priority belong to threads, and before any library is loaded that sizes itself by them. Working
folder, module path, umask and streams are set by the client that starts it
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
"""More than any kernel is built for; it ignores those that do not exist or are forbidden."""
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
    """Give this process what its user may have. Returns what could not be reset, one text each."""
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
    """Niceness 0; taking it back needs a right that users often lack (RLIMIT_NICE)."""
    if os.getpriority(os.PRIO_PROCESS, 0) != 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def main() -> int:
    """Reset what was inherited, then be the daemon."""
    stays = reset_inherited()
    from streamerd.main import main as daemon  # noqa: PLC0415  after the reset, see above

    for text in stays:
        sys.stderr.write(f"WARNING {__name__} event=inherited_setting_stays setting={text}\n")
    return daemon()


if __name__ == "__main__":
    sys.exit(main())
