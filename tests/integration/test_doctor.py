"""`streamerctl doctor` with a real daemon and a real object store."""

from __future__ import annotations

import json
import venv
from pathlib import Path

import pytest

from streamerd.cli.main import main
from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess
from tests.support.guarded_store import SECRET, TOKEN, guarded_store

Findings = dict[str, dict[str, str]]


def _doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Findings]:
    code = main(["doctor", "--json", *arguments])
    told = capsys.readouterr().out
    assert SECRET not in told
    assert TOKEN not in told
    return code, {finding["check"]: finding for finding in json.loads(told)}


def test_a_healthy_daemon(streamerd: DaemonProcess, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = _doctor(capsys, "--socket", streamerd.socket)
    assert found["socket"]["state"] == found["daemon"]["state"] == "ok"
    assert f"pid {streamerd.pid}" in found["daemon"]["text"]
    assert found["cgroup"]["state"] in ("ok", "warn")
    assert code == (1 if "fail" in {finding["state"] for finding in found.values()} else 0)


def test_a_dead_daemons_socket_and_slabs_are_told(
    streamerd: DaemonProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    streamerd.kill()
    code, found = _doctor(capsys, "--socket", streamerd.socket)
    assert found["socket"]["state"] == "fail"
    assert "died" in found["socket"]["text"]
    assert code == 1


def test_an_object_store(
    streamerd: DaemonProcess,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    write_model(tmp_path / "m", shards=2, blocks=1)
    with guarded_store() as store:
        store.put_model(tmp_path / "m", "s3://models/m")
        for name, value in store.environ(token=TOKEN).items():
            monkeypatch.setenv(name, value)
        _, found = _doctor(capsys, "--socket", streamerd.socket, "s3://models/m")
        assert f"temporary keys sign requests to {store.endpoint}" in found["credentials"]["text"]
        assert found["listing"]["state"] == found["reading"]["state"] == "ok"
        assert "2 shards" in found["listing"]["text"]
        store.denied.add("AKIAGOOD")
        code, found = _doctor(capsys, "--socket", streamerd.socket, "s3://models/m")
    assert (code, found["listing"]["state"]) == (1, "fail")
    assert "reading" not in found


def test_packages_built_for_another_torch_are_found_and_the_remedy_named(
    streamerd: DaemonProcess,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    environment = tmp_path / "vllms"
    venv.create(environment, symlinks=True)
    (site,) = environment.glob("lib/python3*/site-packages")
    _install(site, "vllm", "")
    _install(site, "torchaudio", "")
    monkeypatch.setenv("VIRTUAL_ENV", str(environment))
    _, found = _doctor(capsys, "--socket", streamerd.socket)
    assert "imports" not in found
    _install(site, "torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    code, found = _doctor(capsys, "--socket", streamerd.socket)
    assert (code, found["imports"]["state"]) == (1, "fail")
    assert "torchvision does not fit" in found["imports"]["text"]
    assert "operator torchvision::nms does not exist" in found["imports"]["text"]
    assert f"`pip uninstall torchvision` in {environment}" in found["imports"]["remedy"]
    (site / "torchvision.py").write_text("import os; os._exit(0)")
    _, found = _doctor(capsys, "--socket", streamerd.socket)
    assert "importing it ended Python" in found["imports"]["text"]


def _install(site: Path, name: str, module: str) -> None:
    """Install the files that pip leaves of a package with this one module."""
    (site / f"{name}.py").write_text(module)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
