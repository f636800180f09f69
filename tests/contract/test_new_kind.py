"""A new kind of source is one folder (here a module) and one line of the registry's table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.contract.storage_contract import StorageContract
from tests.support import toy_source

from streamer_client.connecting.source_access import SourceAccesses
from streamer_client.contract.errors import ConfigError
from streamer_client.contract.uris import is_remote
from streamer_client.storage import registry
from streamer_client.storage.contract import Storage
from streamerd.cli.doctor.finding import State
from streamerd.cli.doctor.source import check_source

SOURCE = "toy://models/tiny"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry.KINDS, "toy", "tests.support.toy_source")
    yield
    toy_source.FILES.clear()


class Toys:
    """The backend that the contract's tests write to, with the storage that the registry gives for
    it.
    """

    source = SOURCE

    def __init__(self) -> None:
        self.storage: Storage = registry.storage_for(SOURCE, {})

    def put(self, name: str, data: bytes) -> None:
        toy_source.FILES[self.uri(name)] = data

    def remove(self, name: str) -> None:
        del toy_source.FILES[self.uri(name)]

    def uri(self, name: str) -> str:
        return f"{SOURCE}/{name}"


class TestToys(StorageContract):
    @pytest.fixture
    def backend(self) -> Toys:
        return Toys()


def test_all_that_depends_on_the_kind_knows_it() -> None:
    Toys().put("a.safetensors", b"abc")
    access = SourceAccesses().of(f"{SOURCE}?hush", {"TOY_TOKEN": "t", "HOME": "/h"})
    assert access.uri == SOURCE
    assert access.environment() == {"TOY_TOKEN": "t"}
    assert [shard.size_bytes for shard in access.storage().list_shards(SOURCE, None, None)] == [3]
    assert registry.object_store_schemes() == ["az", "gs", "s3", "toy"]
    assert is_remote(SOURCE)
    findings = check_source(SOURCE, {"TOY_TOKEN": "hush"})
    assert [finding.state for finding in findings] == [State.NOTE, State.OK, State.OK]
    assert "hush" not in str(findings)
    with pytest.raises(ConfigError, match="toy://"):
        registry.storage_for("ftp://h/m", {})


def test_a_line_that_leads_to_no_kind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_source, "KIND", "none")
    with pytest.raises(TypeError, match="KIND is no SourceKind"):
        registry.storage_for(SOURCE, {})
