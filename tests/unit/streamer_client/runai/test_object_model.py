"""One of several processes brings the files; the lock counts per open file, so threads will do."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from tests.support.waiting import eventually

from streamer_client.contract.errors import ConfigError, SourceNotFound
from streamer_client.runai import ObjectStorageModel, S3Credentials, object_model

URL = "s3://bucket/model"
Call = tuple[object, ...]


@pytest.fixture
def pulls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What was to be pulled; each pull leaves a file."""
    calls: list[Call] = []

    def pull(source: str, directory: str, *rest: object) -> None:
        calls.append((source, directory, *rest))
        Path(directory, f"file-{len(calls)}").touch()

    monkeypatch.setattr(object_model, "pull_files", pull)
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
        (URL, dst, ["*.json"], None, credentials),
        (URL, dst, None, ["*.json"], credentials),
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


@pytest.mark.parametrize("place", ["", " ", "/", "//", "/.", "/tmp/..", ".", "..", "~"])
def test_what_must_not_be_emptied_is_refused(place: str) -> None:
    """The check alone is called: a mirror of such a place would empty it if the check failed."""
    with pytest.raises(ValueError, match="dst is"):
        object_model.check_clearable(os.path.expanduser(place))


def test_nothing_is_touched_before_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dst: str) -> None:
        raise ConfigError(f"dst is {dst!r}")

    def touched(*_: object, **__: object) -> None:
        raise AssertionError("touched")

    monkeypatch.setattr(object_model, "check_clearable", refuse)
    monkeypatch.setattr("os.makedirs", touched)
    monkeypatch.setattr("os.open", touched)
    monkeypatch.setattr("shutil.rmtree", touched)
    with pytest.raises(ConfigError, match="dst is"):
        ObjectStorageModel(URL, "stands for any")


def test_a_folder_beside_is_not_held_back(tmp_path: Path) -> None:
    object_model.check_clearable(str(tmp_path / "model"))
