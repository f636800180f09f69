"""streamerctl with objects: prefetch, status, pin, evict and verify."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamerd.cli.main import main
from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess
from tests.support.guarded_store import GuardedStore, guarded_store
from tests.support.waiting import eventually

SOURCE = "s3://models/llama"
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedStore]:
    write_model(tmp_path / "llama", shards=2, blocks=3)
    with guarded_store() as running:
        running.put_model(tmp_path / "llama", SOURCE)
        running.put("models", "other/one.safetensors", b"x" * 100)
        for name, value in running.environ().items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def run(store: GuardedStore, streamerd: DaemonProcess, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str]:
        code = main([*arguments, "--socket", streamerd.socket])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def sources(run: Run) -> dict[str, Any]:
    body = json.loads(run("status", "--json")[1])
    return {source["uri"]: source["shards"] for source in body["sources"]}


@pytest.mark.parametrize("slash", ["", "/"])
def test_from_prefetch_to_evict(run: Run, slash: str) -> None:
    code, out = run("prefetch", SOURCE + slash)
    assert code == 0, out
    assert run("prefetch", "s3://models/other/one.safetensors")[0] == 0
    shards = sources(run)
    assert sorted(shards) == [SOURCE, "s3://models/other"]
    assert [(each["state"], each["retries"]) for each in shards[SOURCE]] == [("resident", 0)] * 2
    assert run("pin", SOURCE + slash)[0] == 0
    assert all(each["pinned"] for each in sources(run)[SOURCE])
    code, out = run("evict", SOURCE)
    assert (code, "pinned" in out) == (1, True)
    assert run("unpin", SOURCE)[0] == 0
    one = f"{SOURCE}/llama-0.safetensors"
    assert run("evict", one, "s3://models/other" + slash)[0] == 0
    assert [each["uri"] for each in sources(run)[SOURCE]] == [f"{SOURCE}/llama-1.safetensors"]
    assert run("evict", "s3://models/other")[0] == 1


def test_verify_reads_the_objects_again(run: Run, store: GuardedStore) -> None:
    run("prefetch", SOURCE)
    assert run("verify", SOURCE)[0] == 0
    assert set(store.reads().values()) == {1}
    code, out = run("verify", "--source")
    assert (code, "right" in out) == (0, True)
    assert set(store.reads().values()) == {2}
    store.put("models", "llama/llama-0.safetensors", b"else")
    code, out = run("verify", SOURCE + "/", "--source")
    assert code == 1
    assert "could not be compared with its source" in out
    assert "changed" in out


@pytest.mark.parametrize(
    "uri", ["s3://AKIA:xyzzy@models/llama", "s3://AKIA:xyzzy/xyzzy+x@models/llama"]
)
def test_credentials_in_a_name_are_refused_and_never_shown(
    run: Run, store: GuardedStore, streamerd: DaemonProcess, uri: str
) -> None:
    for command in ("prefetch", "verify", "pin", "evict"):
        code, out = run(command, uri)
        assert code != 0, command
        assert "xyzzy" not in out
    assert "AKIA" not in streamerd.log
    assert store.seen == []


def test_what_the_store_refuses_is_told_as_the_store_did(run: Run, store: GuardedStore) -> None:
    store.denied.add("AKIAGOOD")
    code, out = run("prefetch", SOURCE)
    assert code == 1
    assert "AccessDenied" in out
    assert "s3://models/llama" in out
    store.denied.clear()
    code, out = run("prefetch", "s3://models/nothing")
    assert (code, "s3://models/nothing" in out) == (1, True)


def test_a_prefetch_whose_credentials_expire_fails_with_the_stores_words(
    run: Run, store: GuardedStore, streamerd: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-one")
    store.open.clear()
    assert run("prefetch", SOURCE, "--no-wait")[0] == 0
    store.expired.add("token-one")
    store.open.set()
    eventually(lambda: [each["state"] for each in sources(run)[SOURCE]] == ["failed", "failed"])
    assert all("ExpiredToken" in each["error"] for each in sources(run)[SOURCE])
    code, out = run("prefetch", SOURCE)
    assert (code, "ExpiredToken" in out) == (1, True)
