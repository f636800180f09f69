"""Run:ai's API over a real S3 server: the same answers as from files, each byte once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from streamer_client import SourceError, SourceNotFound
from streamer_client.runai import (
    FileStreamer,
    ObjectStorageModel,
    S3Credentials,
    SafetensorsStreamer,
    list_safetensors,
    pull_files,
)
from streamer_client.runai.pulling import destination
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess
from tests.support.guarded_store import SECRET, GuardedStore, guarded_store
from tests.support.runai_package import OURS, PROGRAM, answers, write_files

RECORDED: dict[str, Any] = json.loads(PROGRAM.with_name("runai_0_17_answers.json").read_text())
RECORDED["errors"]["listing nothing"] = "nothing"
"""Differences that concern objects only, as in Run:ai's package; `runai_0_17_cases.json` has all of
them."""
BLOCKS = 4
URI = "s3://models/llama"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedStore]:
    """A server; this process gets the environment of a user of that server."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "RUNAI_"))]:
        monkeypatch.delenv(name)
    with guarded_store() as running:
        for name, value in running.environ().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("STREAMERD_MODE", "direct")
        yield running


@pytest.fixture
def daemon(
    store: GuardedStore, streamerd: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> DaemonProcess:
    monkeypatch.setenv("STREAMERD_MODE", "required")
    monkeypatch.setenv("STREAMERD_SOCKET", streamerd.socket)
    return streamerd


@pytest.fixture
def model(store: GuardedStore, tmp_path: Path) -> tuple[str, list[Path]]:
    """A model of two shards in the store, and the files that it was made of."""
    paths = write_model(tmp_path / "m", 2, BLOCKS)
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "sub").mkdir()
    (tmp_path / "m" / "sub" / "more.json").write_text("[]")
    store.put_model(tmp_path / "m", URI)
    return URI, paths


def test_answers_are_the_same_as_from_files(store: GuardedStore, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    write_files(tmp_path / "files")
    store.put_model(tmp_path / "files", URI)
    assert answers(OURS, URI) == RECORDED


def test_answers_are_the_same_through_a_daemon(
    daemon: DaemonProcess, store: GuardedStore, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    write_files(tmp_path / "files")
    store.put_model(tmp_path / "files", URI)
    assert answers(OURS, URI) == RECORDED


def test_two_streams_are_one_read_of_each_byte(
    daemon: DaemonProcess, store: GuardedStore, model: tuple[str, list[Path]]
) -> None:
    uri, paths = model
    for _ in range(2):
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(list_safetensors(uri))
            found = dict(streamer.get_tensors())
    stored = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    assert found.keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in found.items())
    gets = store.gets(".safetensors")
    assert len({(get.path, get.range) for get in gets}) == len(gets) == 2 * BLOCKS
    assert {get.size_bytes for get in gets} == {BLOCK}


def test_credentials_and_endpoint_of_the_call_are_used(
    daemon: DaemonProcess,
    store: GuardedStore,
    model: tuple[str, list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    uri, _ = model
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ambient")
    own = S3Credentials("of-the-call", SECRET, endpoint=store.endpoint)
    files = list_safetensors(uri, own)
    pull_files(uri, str(tmp_path / "dst"), ["*.json"], s3_credentials=own)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files, s3_credentials=own)
        assert list(streamer.get_tensors())
    assert len(store.gets(".safetensors")) == 2 * BLOCKS
    assert {one.key for one in store.seen} == {"of-the-call"}
    assert SECRET not in daemon.log
    assert SECRET not in json.dumps(daemon.status())


def test_pulling_and_listing(
    store: GuardedStore, model: tuple[str, list[Path]], tmp_path: Path
) -> None:
    uri, paths = model
    assert list_safetensors(f"{uri}/") == [f"{uri}/{path.name}" for path in paths]
    pull_files(f"{uri}/", str(tmp_path / "dst"), ignore_pattern=["*.safetensors"])
    found = {str(path.relative_to(tmp_path / "dst")) for path in (tmp_path / "dst").rglob("*.*")}
    assert found == {"config.json", "sub/more.json"}
    pull_files(uri.upper().replace(uri.upper()[5:], uri[5:]), str(tmp_path / "again"))
    assert (tmp_path / "again" / paths[0].name).read_bytes() == paths[0].read_bytes()
    direct = FileStreamer().list_files(f"{uri}/", is_recursive=False, allow_patterns=["*.json"])
    assert direct == [(f"{uri}/config.json", 2)]


def test_a_model_is_mirrored_once(
    store: GuardedStore, model: tuple[str, list[Path]], tmp_path: Path
) -> None:
    uri, _ = model
    for _ in range(2):
        with ObjectStorageModel(uri, str(tmp_path / "mirror")) as mirror:
            mirror.pull_files(allow_pattern=["*.json"])
    assert {path.name for path in (tmp_path / "mirror").iterdir()} == {
        "config.json",
        "sub",
        ".runai_complete",
    }
    assert len(store.gets("config.json")) == 1


@pytest.mark.parametrize("key", ["../../evil", "a/../../evil", "/../evil"])
def test_keys_that_lead_elsewhere(store: GuardedStore, tmp_path: Path, key: str) -> None:
    store.put("models", "llama/config.json", b"{}")
    store.put("models", f"llama/{key}", b"evil")
    with pytest.raises(SourceError, match=f"evil: its name would be written outside of {tmp_path}"):
        pull_files(URI, str(tmp_path / "dst"))
    assert not (tmp_path / "dst").exists()


def test_two_keys_whose_files_would_be_one(store: GuardedStore, tmp_path: Path) -> None:
    for key in ("a/b", "a//b", "config.json"):
        store.put("models", f"llama/{key}", b"{}")
    with pytest.raises(SourceError) as told:
        pull_files(URI, str(tmp_path / "dst"))
    for said in (f"{URI}/a//b", f"{URI}/a/b", "nothing was brought", "rename one of them"):
        assert said in str(told.value)
    assert not (tmp_path / "dst").exists()
    assert not any(seen.range for seen in store.seen)  # nothing was fetched
    pull_files(URI, str(tmp_path / "dst"), ignore_pattern=["a//b"])
    assert (tmp_path / "dst/a/b").read_bytes() == b"{}"


@pytest.mark.parametrize("name", ["../new\nline\x1b[31m.json", "\u202e/../x"])
def test_an_error_shows_no_control_character_of_a_key(
    store: GuardedStore, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SourceError, match="would be written outside of") as told:
        destination(str(tmp_path), name, f"{URI}/{name}")
    assert str(told.value).isprintable()
    with pytest.raises(SourceError) as told:
        pull_files(f"{URI}/{name}", str(tmp_path / "dst"))
    assert str(told.value).isprintable()


def test_what_is_not_there_is_named(store: GuardedStore, tmp_path: Path) -> None:
    store.put("models", "other/config.json", b"{}")
    with pytest.raises(SourceNotFound, match="s3://no-such-bucket/m"):
        pull_files("s3://no-such-bucket/m", str(tmp_path / "dst"))
    assert list_safetensors("s3://models/nothing/here") == []
    with (
        SafetensorsStreamer() as streamer,
        pytest.raises(SourceNotFound, match=r"s3://models/none\.safetensors"),
    ):
        streamer.stream_file("s3://models/none.safetensors")
