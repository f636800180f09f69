"""`python -P -m streamerd.detached`: the daemon that a client starts for its user.

Takes off what the process inherited from the client that happened to be first: its processors,
niceness, limits and signals are no business of the others whom the daemon serves. Runs in the
daemon's own process before anything else does: while there is one thread, since affinity and
priority belong to threads, and before any library is loaded that sizes itself by them. Working
folder, module path, umask and streams are the starter's work
(`streamer_client.connect.own_daemon`).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from typing import Final

MOST_PROCESSORS: Final = 8192
"""More than any kernel is built for; it takes those that exist and that the cpuset allows."""
RAISED_LIMITS: Final = (
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_NPROC,
)
_KEPT_IGNORED: Final = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Python itself ignores these and raises errors instead."""


def take_off() -> list[str]:
    """Give this process what its user may have; what stays as it was is told, one text each."""
    kept: list[str] = []
    _reset_signals()
    for change, name in (
        (_use_all_processors, "affinity"),
        (_be_scheduled_plainly, "scheduling policy"),
        (_be_as_nice_as_others, "niceness"),
    ):
        try:
            change()
        except OSError as error:
            kept.append(f"{name}: {error.strerror}")
    for limit in RAISED_LIMITS:
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (hard, hard))
    # A core would hold what loads sent along to read their sources: credentials.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    return kept


def _reset_signals() -> None:
    for number in signal.valid_signals() - _KEPT_IGNORED:
        if signal.getsignal(number) == signal.SIG_IGN:
            with contextlib.suppress(OSError):  # of those that the C library keeps for itself
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
    """Take off what was inherited, then be the daemon."""
    kept = take_off()
    from streamerd.main import main as daemon  # noqa: PLC0415  not before, see above

    for text in kept:
        sys.stderr.write(f"WARNING {__name__} event=inherited_setting_stays setting={text}\n")
    return daemon()


if __name__ == "__main__":
    sys.exit(main())
