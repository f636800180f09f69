"""Writes streamerd(8) and streamerctl(1): `python -m docs.make_man_pages OUT`.

Made from the command lines, so that a new flag is told without being written twice.
Packages are built with it; nothing it writes is kept in the repository.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from docs.command_line import Command, Option, control, daemon

from streamerd import __version__
from streamerd.settings.config import SYSTEM_CONFIG

_SIGNALS: Final = (
    (
        "SIGTERM",
        "Stop, and leave what is in memory to the next daemon here. Loads under way go on.",
    ),
    ("SIGINT", "Stop, and leave nothing in memory."),
    (
        "SIGHUP",
        "Read the configuration again; memory_limit, bandwidth_limit and log_level take effect.",
    ),
)
_FILES: Final = (
    (SYSTEM_CONFIG, "The configuration: every key with its default, switched off."),
    ("/run/streamerd/control.sock", "The control socket of the system's daemon."),
    (
        "/run/streamerd/control.sock.fd",
        "Its descriptor socket: opened files go in, shared memory comes out.",
    ),
    (
        "/run/streamerd/control.sock.instance, .lock, .slabs",
        "What the next daemon there must know to adopt what is in memory.",
    ),
    ("/run/streamerd-shm", "/dev/shm once more, read-only, as the unit mounts it."),
    ("/dev/shm/streamerd.*", "Checkpoints in memory, one file a shard; the daemon's user's alone."),
)
_EXIT: Final = (
    ("0", "Done."),
    ("1", "Failed; the last line of standard error says why."),
    ("2", "Wrong usage."),
    ("69", "No daemon answers (streamerctl)."),
    ("78", "The configuration is wrong; starting again will not help."),
)
_ENVIRONMENT: Final = (
    ("STREAMERD_SOCKET", "The control socket, where no flag names one."),
    ("STREAMERD_KEY", "A setting of the daemon, for each key of the configuration."),
    ("NO_COLOR", "When set, streamerctl uses no colour."),
)


def daemon_page() -> str:
    """streamerd(8)."""
    program = daemon()
    return _page(
        program,
        section=8,
        what="model checkpoints in shared memory, read once for every rank of a node",
        synopsis=[r"\fBstreamerd\fR [\fB\-\-config\fR \fIFILE\fR] [\fB\-\-KEY\fR \fIVALUE\fR]..."],
        body=[
            *_paragraph(
                f"{program.help} Runs in the foreground and logs to standard error. Settings come "
                f"from a flag, else a variable STREAMERD_KEY, else {SYSTEM_CONFIG}, else a default."
            ),
            ".SH OPTIONS",
            *_options(program.options),
            *_table("SIGNALS", _SIGNALS),
        ],
        other="streamerctl(1)",
    )


def control_page() -> str:
    """streamerctl(1)."""
    program, commands = control()
    body = [*_paragraph(program.help), ".SH OPTIONS", *_options(program.options), ".SH COMMANDS"]
    for command in commands:
        body += [f".SS {_bold(command.name)}{_operands(command)}", *_paragraph(command.help)]
        body += _options(option for option in command.options if "--help" not in option.flags)
        body += [".P", "Example:", ".P", ".RS", ".EX", _escape(command.example), ".EE", ".RE"]
    synopsis = [r"\fBstreamerctl\fR [\fB\-\-socket\fR \fIPATH\fR] \fICOMMAND\fR [\fIWORD\fR]..."]
    what = "look at and steer the streamerd of this node"
    return _page(program, section=1, what=what, synopsis=synopsis, body=body, other="streamerd(8)")


def _page(
    program: Command, *, section: int, what: str, synopsis: list[str], body: list[str], other: str
) -> str:
    lines = [
        f'.TH {program.name.upper()} {section} "" "streamerd {__version__}"',
        ".SH NAME",
        f"{program.name} \\- {_escape(what)}",
        ".SH SYNOPSIS",
        *synopsis,
        ".SH DESCRIPTION",
        *body,
        *_table("ENVIRONMENT", _ENVIRONMENT),
        *_table("FILES", _FILES),
        *_table("EXIT STATUS", _EXIT),
        ".SH SEE ALSO",
        f"{other}, systemctl(1)",
    ]
    return "\n".join(lines) + "\n"


def _table(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    lines = [f".SH {title}"]
    for term, text in rows:
        lines += [".TP", _bold(term), _escape(text)]
    return lines


def _options(options: Iterable[Option]) -> list[str]:
    lines: list[str] = []
    for option in options:
        value = rf"\fI{_escape(option.metavar)}\fR" if option.metavar else ""
        flags = ", ".join(_bold(flag) for flag in option.flags)
        lines += [".TP", f"{flags} {value}".strip(), _escape(option.help)]
    return lines


def _operands(command: Command) -> str:
    return "".join(
        rf" \fI{operand.metavar}\fR{'...' if operand.repeats else ''}"
        for operand in command.operands
    )


def _paragraph(text: str) -> list[str]:
    return [".P", _escape(text)]


def _bold(text: str) -> str:
    return rf"\fB{_escape(text)}\fR"


def _escape(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return "\n".join(
        rf"\&{line}" if line.startswith((".", "'")) else line for line in escaped.split("\n")
    )


def main(out: str) -> None:
    """Write both pages into a directory."""
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "streamerd.8").write_text(daemon_page(), encoding="utf-8")
    (directory / "streamerctl.1").write_text(control_page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
