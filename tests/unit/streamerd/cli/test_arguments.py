"""streamerctl's command line: flags, usage errors, help that fits a screen and has an example."""

import argparse
from pathlib import Path

import pytest

from streamer_client.contract.errors import SourceNotFound
from streamerd.cli import shard
from streamerd.cli.arguments import control_parser
from streamerd.cli.shard import writer_command

COMMANDS = (
    "status",
    "prefetch",
    "evict",
    "pin",
    "unpin",
    "verify",
    "report",
    "fleet",
    "shard",
    "config",
    "doctor",
)


def _parse(*argv: str) -> argparse.Namespace:
    return control_parser().parse_args(argv)


def _help(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as done:
        _parse(*argv, "-h")
    assert done.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("STREAMERD_SOCKET", "/from/environment.sock")


def test_the_main_help_fits_a_screen_and_lists_each_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = _help(capsys).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if line.startswith("    ") and line.split()]
    assert tuple(listed) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_an_example_that_parses(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = _help(capsys, command).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    example = lines[-1].split()
    assert lines[-2] == "example:"
    assert example[:2] == ["streamerctl", command]
    assert callable(_parse(*example[1:]).run)


def test_the_socket_may_stand_before_or_after_the_command() -> None:
    assert _parse("--socket", "/a", "status").socket == "/a"
    assert _parse("status", "--socket", "/a").socket == "/a"
    assert _parse("status").socket == "/from/environment.sock"


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("restart",),
        ("evict",),
        ("evict", "/m", "--all"),
        ("evict", ""),
        ("evict", "/m", ""),
        ("pin", ""),
        ("verify", ""),
        ("status", "--socket", ""),
        ("prefetch",),
        ("prefetch", "/m", "--memory-limit", "lots"),
        ("shard", "/m", "/o"),
        ("shard", "/m", "/o", "--tensor-parallel-size", "0"),
    ],
)
def test_usage_errors_end_with_2(argv: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as failed:
        _parse(*argv)
    assert failed.value.code == 2


def test_a_prefetch_without_a_limit_of_its_own_says_so() -> None:
    assert _parse("prefetch", "/m").memory_limit == -1
    assert _parse("prefetch", "/m", "--memory-limit", "2GiB").memory_limit == 2 << 30


def test_the_shard_writer_gets_what_was_given_and_sizes_in_bytes() -> None:
    arguments = _parse("shard", "/m", "/o", "--tensor-parallel-size", "2")
    assert writer_command(arguments)[1:] == [
        "-m", "streamer_vllm.sharding.command", "/m", "/o", "--tensor-parallel-size", "2",
    ]  # fmt: skip
    arguments = _parse(
        "shard", "/m", "/o", "--tensor-parallel-size", "2", "--pipeline-parallel-size", "3",
        "--pattern", "r{rank}-{part}.safetensors", "--max-file-size", "1GiB",
        "--enable-expert-parallel", "--dtype", "float16", "--quantization", "fp8",
    )  # fmt: skip
    assert writer_command(arguments)[7:] == [
        "--pipeline-parallel-size", "3", "--pattern", "r{rank}-{part}.safetensors",
        "--max-file-size", "1073741824", "--enable-expert-parallel", "--dtype", "float16",
        "--quantization", "fp8",
    ]  # fmt: skip


def test_a_model_that_is_a_path_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "_NEEDED", ())
    missing = str(tmp_path / "llama")
    arguments = _parse("shard", missing, str(tmp_path / "out"), "--tensor-parallel-size", "2")
    with pytest.raises(SourceNotFound, match=f"^{missing}: no such file or directory; check"):
        arguments.run(arguments)
