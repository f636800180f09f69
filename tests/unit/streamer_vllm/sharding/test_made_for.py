"""The engine that a sharded checkpoint was made for, and errors for other engines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from streamer_client.contract.errors import (
    ConfigError,
    CorruptCheckpoint,
    SourceError,
    SourceNotFound,
)
from streamer_vllm.sharding.made_for import (
    NOTE_NAME,
    MadeFor,
    Wanted,
    check_made_for,
    is_sharded,
    naming_writer,
    read_note,
    write_note,
)
from streamer_vllm.sharding.pattern import Place

FILES = tuple(f"model-rank-{rank}-part-{part}.safetensors" for rank in (0, 1) for part in (0, 1))
NOTE = MadeFor(1, 2, 1, False, None, "bfloat16", "0.32.0", None, FILES)
SAME = Wanted(Place(0, 2), False, None, None)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for name in FILES:
        (tmp_path / name).touch()
    return str(tmp_path)


def test_the_same_engine(folder: str) -> None:
    write_note(folder, NOTE)
    assert read_note(folder) == NOTE
    check_made_for(folder, SAME)
    check_made_for(folder, dataclasses.replace(SAME, place=Place(1, 2)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"place": Place(0, 1)}, "tensor-parallel size 2 and this engine has 1"),
        ({"place": Place(0, 4)}, "tensor-parallel size 2 and this engine has 4"),
        ({"place": Place(0, 2, 0, 2)}, "pipeline-parallel size 1 and this engine has 2"),
        ({"expert_parallel": True}, "expert parallelism off and this engine has on"),
        ({"quantization": "fp8"}, "quantization off and this engine has on"),
    ],
)
def test_another_engine_is_refused(folder: str, change: dict[str, object], told: str) -> None:
    write_note(folder, NOTE)
    wanted = Wanted(
        **{field.name: getattr(SAME, field.name) for field in dataclasses.fields(SAME)} | change
    )
    with pytest.raises(ConfigError, match=told):
        check_made_for(folder, wanted)


def test_a_method_that_is_named_after_another_kernel_is_the_same(folder: str) -> None:
    write_note(folder, msgspec.structs.replace(NOTE, quantization="gptq"))
    check_made_for(folder, dataclasses.replace(SAME, quantization="gptq_marlin"))


def test_a_part_that_is_missing_is_named(folder: str) -> None:
    write_note(folder, NOTE)
    Path(folder, FILES[1]).unlink()
    with pytest.raises(SourceNotFound, match=f"lacks {FILES[1]}"):
        check_made_for(folder, SAME)
    check_made_for(folder, dataclasses.replace(SAME, place=Place(1, 2)))


def test_a_part_too_many_is_named(folder: str) -> None:
    """For example a file of an earlier, larger checkpoint in the same folder."""
    write_note(folder, NOTE)
    Path(folder, "model-rank-0-part-2.safetensors").touch()
    with pytest.raises(CorruptCheckpoint, match=r"holds model-rank-0-part-2.*remove it"):
        check_made_for(folder, SAME)
    check_made_for(folder, dataclasses.replace(SAME, place=Place(1, 2)))


def test_an_error_of_names_tells_another_writer() -> None:
    with (
        pytest.raises(
            SourceError, match=r"x is missing \(vLLM 0.32.0 wrote .* this is vLLM 0.24.0"
        ),
        naming_writer(NOTE, "0.24.0"),
    ):
        raise SourceError("x is missing")


@pytest.mark.parametrize(
    ("note", "running", "error"),
    [
        (NOTE, "0.32.0", SourceError("as it was")),
        (None, "0.24.0", SourceError("as it was")),
        (NOTE, "0.24.0", SourceNotFound("as it was")),
    ],
)
def test_another_error_stays_as_it_is(
    note: MadeFor | None, running: str, error: SourceError
) -> None:
    with pytest.raises(type(error)) as caught, naming_writer(note, running):
        raise error
    assert caught.value is error


def test_without_a_note_files_of_a_rank_too_many_tell(folder: str) -> None:
    check_made_for(folder, SAME)
    with pytest.raises(ConfigError, match="more than the 1 tensor-parallel ranks"):
        check_made_for(folder, dataclasses.replace(SAME, place=Place(0, 1)))


def test_without_a_note_a_pattern_for_one_rank_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "all-0.safetensors").touch()
    check_made_for(str(tmp_path), Wanted(Place(0, 1), False, None, "all-{part}.safetensors"))


def test_a_note_of_a_later_format_may_say_more(folder: str) -> None:
    write_note(folder, NOTE)
    path = Path(folder, NOTE_NAME)
    path.write_text(path.read_text().replace('"format": 1', '"more": {}, "format": 2'))
    check_made_for(folder, SAME)


def test_a_note_that_is_none_is_told_of(folder: str) -> None:
    Path(folder, NOTE_NAME).write_text('{"format": "x"}')
    with pytest.raises(CorruptCheckpoint, match="copy the checkpoint again"):
        check_made_for(folder, SAME)


def test_which_folders_hold_shards(folder: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = str(tmp_path_factory.mktemp("empty"))
    assert is_sharded(folder, "model-rank-0-part-*.safetensors")
    assert not is_sharded(empty, "model-rank-0-part-*.safetensors")
    write_note(empty, NOTE)
    assert is_sharded(empty, "model-rank-0-part-*.safetensors")


def test_without_a_file_of_this_rank_the_open_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "model-rank-1-part-0.safetensors").touch()
    check_made_for(str(tmp_path), Wanted(Place(0, 1), False, None, None))
