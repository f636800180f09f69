"""One of several processes brings the files.

The lock counts for each open file, so threads can stand for processes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.waiting import eventually

from streamer_client.contract.errors import ConfigError, SourceNotFound
from streamer_client.runai import ObjectStorageModel, S3Credentials, model_directory
from streamer_client.runai.safetensors_streamer import safetensors_streamer

URL = "s3://bucket/model"
Call = tuple[object, ...]


@pytest.fixture
def pulls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Notes the files that were to be pulled; each pull leaves a file."""
    calls: list[Call] = []

    def pull(source: str, directory: str, *rest: object) -> None:
        calls.append((source, directory, *rest))
        Path(directory, f"file-{len(calls)}").touch()

    monkeypatch.setattr(safetensors_streamer, "pull_files", pull)
    return calls


@pytest.fixture
def dst(tmp_path: Path) -> str:
    return str(tmp_path / "cache" / "model")


def test_the_first_brings_and_the_next_finds(pulls: list[Call], dst: str) -> None:
    credentials = S3Credentials(region_name="r")
    with ObjectStorageModel(URL, f"{dst}/", credentials) as model:
        assert model.dir == dst
        model.pull_files(allow_pattern=["*.json"])
        model.pull_files(ignore_pattern=["*.json"])
    assert pulls == [
        (f"{URL}/", dst, ["*.json"], None, credentials),
        (f"{URL}/", dst, None, ["*.json"], credentials),
    ]
    with ObjectStorageModel(URL, dst) as model:
        model.pull_files()
    assert len(pulls) == 2
    assert set(os.listdir(dst)) == {"file-1", "file-2", ".runai_complete"}


def test_after_an_error_the_next_begins_anew(pulls: list[Call], dst: str) -> None:
    def broken() -> None:
        with ObjectStorageModel(URL, dst) as model:
            model.pull_files()
            raise KeyError("broken off")

    with pytest.raises(KeyError):
        broken()
    with ObjectStorageModel(URL, dst) as model:
        assert os.listdir(dst) == []
        model.pull_files()
    assert set(os.listdir(dst)) == {"file-2", ".runai_complete"}


def test_nothing_brought_is_an_error(pulls: list[Call], dst: str) -> None:
    with (
        pytest.raises(SourceNotFound, match="s3://bucket/model: no file was brought"),
        ObjectStorageModel(URL, dst),
    ):
        pass
    assert os.listdir(dst) == []


def test_the_others_wait_for_the_first(pulls: list[Call], dst: str) -> None:
    done: list[bool] = []

    def another() -> None:
        with ObjectStorageModel(URL, dst) as model:
            model.pull_files()
            done.append(True)

    threads = [threading.Thread(target=another) for _ in range(3)]
    with ObjectStorageModel(URL, dst) as model:
        for thread in threads:
            thread.start()
        model.pull_files()
        eventually(lambda: Path("/proc/locks").read_text().count("->") >= 1)
        assert not done
    for thread in threads:
        thread.join(30)
    assert len(done) == 3
    assert len(pulls) == 1


def test_one_that_is_forgotten_locks_nobody_out(pulls: list[Call], dst: str) -> None:
    model = ObjectStorageModel(URL, dst)
    model.pull_files()
    del model
    with ObjectStorageModel(URL, dst) as model:
        model.pull_files()
    assert len(pulls) == 2


@pytest.mark.parametrize("path", ["/models/llama", "llama", "file:///m", "https://host/m"])
def test_what_is_in_no_object_store_is_refused(path: str, dst: str) -> None:
    with pytest.raises(ValueError, match="in no object store"):
        ObjectStorageModel(path, dst)
    assert not Path(dst).parent.exists()


@pytest.fixture
def nothing_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, a test that goes wrong would remove the directory that it names."""

    def removed(path: str, **_: object) -> None:
        raise AssertionError(f"{path} would have been removed")

    monkeypatch.setattr(model_directory, "_remove_content", removed)
    monkeypatch.setattr(shutil, "rmtree", removed)


@pytest.mark.usefixtures("nothing_is_removed")
@pytest.mark.parametrize("name", ["", " ", "/", "//", "/proc", ".", "..", "~"])
def test_a_directory_that_is_more_than_a_models_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"name (the|a) directory"):
        ObjectStorageModel(URL, os.path.expanduser(name))


@pytest.mark.usefixtures("nothing_is_removed")
def test_a_link_to_such_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(ValueError, match="more than one model"):
        ObjectStorageModel(URL, str(tmp_path / "link"))


@pytest.mark.usefixtures("nothing_is_removed")
@pytest.mark.parametrize("locked", [False, True])
def test_what_no_attempt_left_is_not_removed(
    pulls: list[Call], tmp_path: Path, *, locked: bool
) -> None:
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "thesis.tex").write_text("years of work")
    if locked:  # another package, or an attempt that was refused, left a lock
        (tmp_path / "mine.lock").touch()
    for _ in range(2):
        with pytest.raises(ValueError, match="mine holds something"):
            ObjectStorageModel(URL, str(directory))
    assert (directory / "thesis.tex").read_text() == "years of work"
    assert not pulls


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file holds something"):
        ObjectStorageModel(URL, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.usefixtures("nothing_is_removed")
def test_a_lock_that_another_user_made_says_nothing(
    pulls: list[Call], dst: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with suppress(OSError), ObjectStorageModel(URL, dst) as model:
        model.pull_files()
        raise OSError
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ValueError, match="holds something"):
        ObjectStorageModel(URL, dst)
    assert os.listdir(dst) == ["file-1"]
    assert len(pulls) == 1


@pytest.mark.usefixtures("nothing_is_removed")
def test_a_directory_that_was_complete_once_is_not_removed(pulls: list[Call], dst: str) -> None:
    with ObjectStorageModel(URL, dst) as model:
        model.pull_files()
    Path(dst, ".runai_complete").unlink()
    Path(dst, "mine").touch()
    with pytest.raises(ValueError, match="holds something"):
        ObjectStorageModel(URL, dst)
    assert set(os.listdir(dst)) == {"file-1", "mine"}
    assert len(pulls) == 1


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path, dst: str) -> None:
    Path(dst).parent.mkdir()
    (tmp_path / "victim").write_text("x")
    Path(f"{dst}.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=r"model\.lock"):
        ObjectStorageModel(URL, dst)
    assert (tmp_path / "victim").read_text() == "x"


def test_a_working_directory_that_was_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for dst in ("model", str(tmp_path / "model")):
        with pytest.raises(ConfigError, match="working directory was removed"):
            ObjectStorageModel(URL, dst)


def broken_attempt(dst: str) -> None:
    with suppress(OSError), ObjectStorageModel(URL, dst) as model:
        model.pull_files()
        raise OSError


@pytest.mark.usefixtures("nothing_is_removed")
@pytest.mark.parametrize("make", ["a file", "a second name", "a pipe"])
def test_what_is_no_lock_is_not_written_to(
    pulls: list[Call], tmp_path: Path, make: str, dst: str
) -> None:
    """`poetry.lock` lies beside a directory `poetry`."""
    lock = Path(f"{dst}.lock")
    lock.parent.mkdir()
    (tmp_path / "victim").write_text("[metadata]" if make == "a file" else "")
    if make == "a file":
        lock.write_text("[metadata]")
    elif make == "a second name":
        lock.hardlink_to(tmp_path / "victim")
    else:
        os.mkfifo(lock)
    with pytest.raises(ValueError, match="is no lock of"):
        ObjectStorageModel(URL, dst)
    assert not lock.is_file() or lock.read_text() == (tmp_path / "victim").read_text()
    assert not Path(dst).exists()
    assert not pulls


def test_a_stored_file_of_the_sentinels_name_completes_nothing(pulls: list[Call], dst: str) -> None:
    broken_attempt(dst)
    Path(dst, ".runai_complete").touch()
    with ObjectStorageModel(URL, dst) as model:
        assert os.listdir(dst) == []
        model.pull_files()
    with ObjectStorageModel(URL, dst) as model:
        model.pull_files()
    assert len(pulls) == 2


@pytest.mark.usefixtures("nothing_is_removed")
def test_a_directory_in_the_place_of_the_first_is_not_removed(pulls: list[Call], dst: str) -> None:
    broken_attempt(dst)
    Path(dst).rename(f"{dst}.old")
    Path(dst).mkdir()
    Path(dst, "mine").touch()
    with pytest.raises(ValueError, match="holds something"):
        ObjectStorageModel(URL, dst)
    assert os.listdir(dst) == ["mine"]


def test_a_linked_directory_is_emptied_and_stays(pulls: list[Call], tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").touch()
    (tmp_path / "model").symlink_to(tmp_path / "disk")
    broken_attempt(str(tmp_path / "model"))
    (tmp_path / "disk" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "disk" / "folder").mkdir()
    with ObjectStorageModel(URL, str(tmp_path / "model")) as model:
        assert os.listdir(tmp_path / "disk") == []
        model.pull_files()
    assert (tmp_path / "model").is_symlink()
    assert os.listdir(tmp_path / "outside") == ["mine"]


def test_the_lock_of_a_dotted_name_lies_beside(pulls: list[Call], tmp_path: Path) -> None:
    with ObjectStorageModel(URL, f"{tmp_path}/model/.") as model:
        model.pull_files()
    assert set(os.listdir(tmp_path)) == {"model", "model.lock"}


def test_a_forked_child_neither_keeps_nor_ends_the_turn(pulls: list[Call], dst: str) -> None:
    end, told = os.pipe()
    with ObjectStorageModel(URL, dst) as model:
        model.pull_files()
        leaver = os.fork()
        if not leaver:
            try:
                model.__exit__(KeyError, None, None)
            finally:
                os._exit(0)
        assert os.waitpid(leaver, 0)[1] == 0
        with Path(f"{dst}.lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stayer = os.fork()
        if not stayer:
            os.close(told)
            os.read(end, 1)
            os._exit(0)
    with Path(f"{dst}.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(told)
    os.waitpid(stayer, 0)
    os.close(end)
