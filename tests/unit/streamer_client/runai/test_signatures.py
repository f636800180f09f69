"""Every name, parameter and default of `runai_model_streamer` 0.17, as recorded from
that package.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support import runai_signatures
from tests.support.runai_names import recorded_exceptions, recorded_names
from tests.support.runai_package import OURS, PACKAGE, environment_of, package_missing, run_program

import streamer_client.runai

RECORDED: dict[str, Any] = json.loads(
    Path(runai_signatures.__file__).with_name("runai_0_17_signatures.json").read_text()
)


def test_ours_are_theirs() -> None:
    assert runai_signatures.signatures("streamer_client.runai") == RECORDED


def test_the_record_is_right() -> None:
    if missing := package_missing():
        pytest.skip(missing)
    command = [sys.executable, runai_signatures.__file__, PACKAGE]
    environment = os.environ | environment_of(PACKAGE)
    told = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert json.loads(told) == RECORDED


def test_the_record_of_names_is_right() -> None:
    if missing := package_missing():
        pytest.skip(missing)
    command = ["-m", "tests.support.runai_names", PACKAGE]
    told = run_program(command, PACKAGE, {})
    assert told == {"names": recorded_names(), "exceptions": recorded_exceptions()}


def test_exceptions_have_the_bases_of_those_of_runai() -> None:
    """Names of those modules that exist here too; `lacking` has the others."""
    for place, bases in recorded_exceptions().items():
        module, _, name = place.rpartition(".")
        ours = getattr(importlib.import_module(f"{OURS}.{module}"), name)
        assert set(bases) <= {one.__name__ for one in ours.__mro__}


def test_dir_shows_names_and_modules() -> None:
    told = {name for name in recorded_names()[""] if "." not in name}
    assert told - set(dir(streamer_client.runai)) == {"logger_level"}
    modules = {"distributed_streamer", "file_streamer", "s3_utils", "safetensors_streamer"}
    assert modules < set(dir(streamer_client.runai))
    assert all(getattr(streamer_client.runai, name).__doc__ for name in modules)


def test_all_public_names_are_there() -> None:
    package = importlib.import_module("streamer_client.runai")
    assert set(runai_signatures.NAMES) < set(package.__all__)
    for name in package.__all__:
        assert getattr(package, name).__name__ == name


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        streamer_client.runai.__getattr__("Nothing")
