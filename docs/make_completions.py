"""Writes completions for bash, zsh and fish: `python -m docs.make_completions OUT`.

Made from the command lines, so that a new flag is completed without being told twice. Packages are
built with it; nothing it writes is kept in the repository.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from docs.command_line import Command, Option, control, daemon

_NAMES_FILES: Final = frozenset({"PATH", "FILE", "SOURCE", "MODEL", "OUT"})
"""What stands for these may be a path."""


def bash() -> str:
    """For both programs; bash-completion loads it by the name of either."""
    program, commands = control()
    cases = "".join(
        f"        {command.name}) words={_quoted(_words(command.flags))} ;;\n"
        for command in commands
    )
    names = " ".join(command.name for command in commands)
    return f"""\
# bash completion for streamerd and streamerctl
_streamerctl() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words word command=
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case " {names} " in *" $word "*) command=$word; break ;; esac
    done
    case $command in
{cases}        *) words={_quoted(f"{names} {_words(program.flags)}")} ;;
    esac
    _streamer_reply
}}
_streamerd() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command=streamerd
    local words={_quoted(_words(daemon().flags))}
    _streamer_reply
}}
_streamer_reply() {{
    case $prev in
        {_pattern(_path_flags((program, daemon())))}) COMPREPLY=($(compgen -f -- "$cur")) ;;
        {_pattern(_value_flags((program, daemon(), *commands)))}) COMPREPLY=() ;;
        *)
            if [[ $cur == -* || -z $command ]]; then
                COMPREPLY=($(compgen -W "$words" -- "$cur"))
            elif [[ $command != streamerd ]]; then
                COMPREPLY=($(compgen -f -- "$cur"))
            fi ;;
    esac
}}
complete -o filenames -F _streamerctl streamerctl
complete -o filenames -F _streamerd streamerd
"""


def zsh() -> str:
    """For both programs, as a function file `_streamerctl`."""
    program, commands = control()
    described = "\n".join(f"    {_zsh_text(f'{c.name}:{c.help}')}" for c in commands)
    cases = "\n".join(
        f"    {command.name}) _arguments {' '.join(_zsh_options(command))} ;;"
        for command in commands
    )
    return f"""\
#compdef streamerctl streamerd
if [[ $service == streamerd ]]; then
  _arguments {" ".join(_zsh_options(daemon()))}
  return
fi
local -a commands
commands=(
{described}
)
local line state
_arguments -C {" ".join(_zsh_options(program))} '1:command:->command' '*::argument:->argument'
case $state in
  command) _describe -t commands 'command' commands ;;
  argument)
    case $line[1] in
{cases}
    esac ;;
esac
"""


def fish() -> str:
    """For both programs; fish loads it by the name of streamerctl."""
    program, commands = control()
    names = " ".join(command.name for command in commands)
    none_yet = f"'not __fish_seen_subcommand_from {names}'"
    lines = ["# fish completion for streamerctl", "complete -c streamerctl -f"]
    lines += [
        f"complete -c streamerctl -n {none_yet} -a {command.name} -d {_fish_text(command.help)}"
        for command in commands
    ]
    lines += _fish_options("streamerctl", program, none_yet)
    for command in commands:
        seen = f"'__fish_seen_subcommand_from {command.name}'"
        lines += _fish_options("streamerctl", command, seen)
        if _takes_paths(command.operands):
            lines.append(f"complete -c streamerctl -n {seen} -F")
    return "\n".join(lines) + "\n"


def fish_daemon() -> str:
    """For streamerd alone: fish looks for a file of each program's name."""
    lines = ["# fish completion for streamerd", "complete -c streamerd -f"]
    return "\n".join([*lines, *_fish_options("streamerd", daemon())]) + "\n"


def _words(options: Iterable[Option]) -> str:
    return " ".join(flag for option in options for flag in option.flags)


def _value_flags(commands: Iterable[Command]) -> list[str]:
    options = (option for command in commands for option in command.flags if option.metavar)
    return sorted({flag for option in options for flag in option.flags})


def _path_flags(commands: Iterable[Command]) -> list[str]:
    options = (option for command in commands for option in command.flags)
    named = (option for option in options if option.metavar in _NAMES_FILES)
    return sorted({flag for option in named for flag in option.flags})


def _takes_paths(operands: Iterable[Option]) -> bool:
    return any(operand.metavar in _NAMES_FILES for operand in operands)


def _pattern(flags: list[str]) -> str:
    return "|".join(flags)


def _quoted(text: str) -> str:
    return f"'{text}'"


def _zsh_options(command: Command) -> list[str]:
    specs = []
    for option in command.flags:
        action = "_files" if option.metavar in _NAMES_FILES else " "
        value = f":{option.metavar}:{action}" if option.metavar else ""
        about = _zsh_bracketed(option.help)
        specs += [_zsh_text(f"{flag}[{about}]{value}") for flag in option.flags]
    if _takes_paths(command.operands):
        specs.append("'*:file:_files'")
    return specs


def _zsh_bracketed(text: str) -> str:
    return text.replace("[", r"\[").replace("]", r"\]").replace(":", r"\:")


def _zsh_text(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"


def _fish_options(program: str, command: Command, condition: str = "") -> list[str]:
    when = f" -n {condition}" if condition else ""
    lines = []
    for option in command.flags:
        flags = "".join(
            f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}"
            for flag in option.flags
        )
        value = " -r" if option.metavar else ""
        files = " -F" if option.metavar in _NAMES_FILES else ""
        about = _fish_text(option.help)
        lines.append(f"complete -c {program}{when}{flags}{value}{files} -d {about}")
    return lines


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", r"\'") + "'"


def main(out: str) -> None:
    """Write all of them below a directory, each in a folder of its shell's name."""
    for path, text in (
        ("bash/streamerctl", bash()),
        ("zsh/_streamerctl", zsh()),
        ("fish/streamerctl.fish", fish()),
        ("fish/streamerd.fish", fish_daemon()),
    ):
        file = Path(out, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
