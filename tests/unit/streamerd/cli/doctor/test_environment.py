"""vLLM, torch and kernel: the installed versions, and whether they fit."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from streamerd.cli.doctor.ask_environment import ask_kernel, ask_python
from streamerd.cli.doctor.environment import (
    KernelFacts,
    PythonFacts,
    check_imports,
    check_kernel,
    check_torch,
    check_vllm,
)
from streamerd.cli.doctor.finding import State

GOOD = PythonFacts("/venv", vllm="0.32.0", streamerd="1.0", torch="2.13.0+cpu", registered=True)


@pytest.mark.parametrize(
    ("changes", "state", "says"),
    [
        ({}, State.OK, "vLLM 0.32.0 with streamerd 1.0"),
        ({"vllm": ""}, State.NOTE, "no vLLM in /venv"),
        ({"vllm": "0.20.2"}, State.FAILED, "too old"),
        ({"vllm": "0.21.0rc1"}, State.OK, "0.21.0rc1"),
        ({"vllm": "1.0"}, State.OK, "1.0"),
        ({"streamerd": ""}, State.FAILED, "no streamerd plugin"),
        ({"registered": False}, State.FAILED, "no streamerd plugin"),
        ({"allowed_plugins": "lora"}, State.FAILED, "VLLM_PLUGINS=lora"),
        ({"allowed_plugins": ""}, State.FAILED, "VLLM_PLUGINS="),
        ({"allowed_plugins": "lora, streamerd"}, State.OK, "vLLM"),
        ({"mode": "off"}, State.WARNING, "STREAMERD_MODE=off"),
        ({"streamerd": "0.9"}, State.WARNING, "the daemon has version 1.0"),
    ],
)
def test_vllm(changes: dict[str, str], state: State, says: str) -> None:
    finding = check_vllm(replace(GOOD, **changes), "1.0")  # type: ignore[arg-type]
    assert finding.state is state
    assert says in finding.text


def test_without_a_daemon_versions_are_not_compared() -> None:
    assert check_vllm(GOOD, None).state is State.OK


def test_what_does_not_import_is_told_with_its_remedy() -> None:
    assert check_imports(GOOD) == []
    broken = replace(GOOD, broken={"torchvision": "RuntimeError: no nms\n", "torchcodec": "gone"})
    first, second = check_imports(broken)
    assert first.state is second.state is State.FAILED
    assert "torchvision does not fit torch 2.13.0+cpu" in first.text
    assert "\n" not in first.text
    assert "`pip uninstall torchvision torchcodec` in /venv" in first.remedy


def test_torch_should_be_of_the_machines_kind() -> None:
    assert check_torch(GOOD, gpu=False).state is State.OK
    assert check_torch(GOOD, gpu=True).state is State.WARNING
    assert check_torch(replace(GOOD, torch="2.11.0"), gpu=True).state is State.OK
    assert check_torch(replace(GOOD, torch=""), gpu=True).state is State.NOTE


@pytest.mark.parametrize(
    ("collapse", "cachestat", "pidfd", "state"),
    [
        (True, True, True, State.OK),
        (False, False, True, State.NOTE),
        (False, False, False, State.WARNING),
    ],
)
def test_the_kernel(collapse: bool, cachestat: bool, pidfd: bool, state: State) -> None:
    assert check_kernel(KernelFacts("6.1", collapse, cachestat, pidfd)).state is state


def test_this_environment_is_found_without_importing_what_is_in_it() -> None:
    before = set(sys.modules)
    found = ask_python({})
    assert found.prefix == sys.prefix
    assert found.streamerd
    assert found.registered
    assert not {"torch", "vllm"} & (set(sys.modules) - before)


def test_an_activated_environment_is_looked_into(tmp_path_factory: pytest.TempPathFactory) -> None:
    prefix = tmp_path_factory.mktemp("venv")
    info = prefix / "lib" / "python3.12" / "site-packages" / "vllm-0.40.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.40.0\n")
    found = ask_python({"VIRTUAL_ENV": str(prefix), "VLLM_PLUGINS": "x"})
    assert (found.prefix, found.vllm, found.streamerd) == (str(prefix), "0.40.0", "")
    assert found.allowed_plugins == "x"


def test_the_running_kernel_is_asked() -> None:
    assert ask_kernel().pidfd
