from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamer_client.connecting.open_request import open_request
from streamer_client.contract.errors import ConfigError


def test_paths_become_absolute() -> None:
    request = open_request("model", files=["a.safetensors", Path("/x/b.safetensors")])
    assert request.source == os.path.abspath("model")
    assert request.files == (os.path.abspath("model/a.safetensors"), "/x/b.safetensors")


def test_a_list_as_source_means_files() -> None:
    request = open_request(["/m/a.safetensors", "/m/b.safetensors"])
    assert (request.source, request.files) == ("/m", ("/m/a.safetensors", "/m/b.safetensors"))
    with pytest.raises(ConfigError, match="leave `files` out"):
        open_request(["/m/a"], files=["/m/b"])


def test_uris_stay_as_they_are() -> None:
    request = open_request("s3://bucket/model", files=["a.safetensors"])
    assert request.source == "s3://bucket/model"
    assert request.files == ("s3://bucket/model/a.safetensors",)


def test_a_file_of_this_machine_beside_a_uri_stays_one() -> None:
    request = open_request("s3://bucket/model/", files=["/m/a.safetensors", "b.safetensors"])
    assert request.files == ("/m/a.safetensors", "s3://bucket/model/b.safetensors")


def test_the_source_of_objects_is_their_prefix() -> None:
    assert open_request(["s3://bucket/model/a.safetensors"]).source == "s3://bucket/model"
