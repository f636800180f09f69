"""Completions: bash completes real command lines; zsh and fish, where installed, at least parse
them.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from docs.command_line import control, daemon
from docs.make_completions import bash, fish, fish_daemon, main, zsh


def _completed(tmp_path: Path, *words: str) -> set[str]:
    """The words that bash offers at the end of a command line."""
    (tmp_path / "file.safetensors").touch()
    line = " ".join(f"'{word}'" for word in words)
    script = f"""{bash()}
cd {tmp_path}
COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}
_{words[0]}; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_offers_commands_then_their_flags_then_files(tmp_path: Path) -> None:
    names = {command.name for command in control()[1]}
    assert names <= _completed(tmp_path, "streamerctl", "")
    assert _completed(tmp_path, "streamerctl", "pre") == {"prefetch"}
    assert _completed(tmp_path, "streamerctl", "prefetch", "--pi") == {"--pin"}
    assert _completed(tmp_path, "streamerctl", "prefetch", "f") == {"file.safetensors"}
    assert _completed(tmp_path, "streamerctl", "--socket", "/x", "conf") == {"config"}


def test_bash_offers_files_for_paths_and_nothing_for_other_values(tmp_path: Path) -> None:
    assert _completed(tmp_path, "streamerctl", "status", "--socket", "f") == {"file.safetensors"}
    assert _completed(tmp_path, "streamerctl", "prefetch", "--memory-limit", "") == set()
    assert _completed(tmp_path, "streamerd", "--config", "f") == {"file.safetensors"}
    assert _completed(tmp_path, "streamerd", "--memory-l") == {"--memory-limit"}


def test_each_shell_knows_every_command_and_flag() -> None:
    program, commands = control()
    told = (bash(), zsh(), fish() + fish_daemon())
    for command in (program, *commands, daemon()):
        for flag in (flag for option in command.flags for flag in option.flags):
            name = flag.lstrip("-")
            assert all(name in text for text in told), flag
    assert all(command.name in text for text in told for command in commands)


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("zsh", "zsh/_streamerctl"),
        ("fish", "fish/streamerctl.fish"),
        ("fish", "fish/streamerd.fish"),
    ],
)
def test_it_parses(tmp_path: Path, shell: str, file: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    main(str(tmp_path))
    done = subprocess.run(
        [shell, "-n", tmp_path / file], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
