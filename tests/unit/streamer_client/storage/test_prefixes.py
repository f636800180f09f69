"""Which objects a source means, by a store that is a list of names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamer_client.contract.errors import ConfigError, SourceForbidden, SourceNotFound
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.object_uri import ObjectUri, split_uri
from streamer_client.storage.prefixes import Page, Prefixes


class Names:
    """A store of these keys; `unlistable` and `unreadable` as permissions have it."""

    def __init__(self, *keys: str, unlistable: bool = False, unreadable: bool = False) -> None:
        self._keys = keys
        self._unlistable = unlistable
        self._unreadable = unreadable

    def uri(self, text: str) -> ObjectUri:
        return ObjectUri("xs", *split_uri(text, "xs"))

    def pages(self, uri: ObjectUri, *, deep: bool) -> Iterator[Page]:
        if self._unlistable:
            raise SourceForbidden(f"{uri}: may not be listed")
        for key in self._keys:
            if key.startswith(uri.prefix):
                name, found, _ = key[len(uri.prefix) :].partition("/")
                yield Page((), (uri.prefix + name + "/",)) if found and not deep else Page((key,))

    def look(self, uri: ObjectUri) -> StoredShard:
        if self._unreadable:
            raise SourceForbidden(f"{uri}: may not be read")
        if uri.key not in self._keys:
            raise SourceNotFound(f"{uri}: does not exist")
        return StoredShard(str(uri), 1, "i")


def uris(shards: tuple[StoredShard, ...]) -> list[str]:
    return [shard.uri for shard in shards]


def test_a_prefix_is_no_other_that_begins_so() -> None:
    found = Prefixes(Names("m/a.safetensors", "m-2/b.safetensors"))
    assert uris(found.list_shards("xs://b/m", None, None)) == ["xs://b/m/a.safetensors"]
    assert uris(found.list_all("xs://b/m/")) == ["xs://b/m/a.safetensors"]


def test_what_is_not_taken_is_not_looked_at() -> None:
    found = Prefixes(Names("m/a.json", "m/b.bin", unreadable=True))
    assert found.list_all("xs://b/m", lambda uri: uri.endswith(".txt")) == ()
    with pytest.raises(SourceForbidden, match=r"xs://b/m/a.json: may not be read"):
        found.list_all("xs://b/m", lambda uri: uri.endswith(".json"))


def test_only_what_is_directly_under_it_and_what_is_deeper_is_told() -> None:
    found = Prefixes(Names("m/x.bin", "m/deep/a.safetensors"))
    with pytest.raises(SourceNotFound, match=r"'\*\.safetensors'; there is: deep/, x.bin"):
        found.list_shards("xs://b/m", None, None)


def test_an_object_can_be_asked_for_where_listing_is_not_allowed() -> None:
    found = Prefixes(Names("m/a.bin", unlistable=True))
    assert uris(found.list_shards("xs://b/m/a.bin", None, None)) == ["xs://b/m/a.bin"]
    for missing in ("xs://b/m", "xs://b/m/", "xs://b"):
        with pytest.raises(SourceForbidden, match="may not be listed"):
            found.list_shards(missing, None, None)


def test_who_may_list_and_not_read_gets_nothing() -> None:
    with pytest.raises(SourceForbidden, match="may not be read"):
        Prefixes(Names("m/a.safetensors", unreadable=True)).list_shards("xs://b/m", None, None)


def test_files_are_names_or_uris_in_their_own_order() -> None:
    found = Prefixes(Names("m/a", "m/b", "n/c"))
    files = ["b", "xs://b/n/c", "a"]
    assert uris(found.list_shards("xs://b/m", "*", files)) == [
        *("xs://b/m/b", "xs://b/n/c", "xs://b/m/a")
    ]
    with pytest.raises(ConfigError, match=r"names twice: xs://b/m/a"):
        found.list_shards("xs://b/m", None, ["a", "xs://b/m/a"])
    with pytest.raises(ConfigError, match="is empty"):
        found.list_shards("xs://b/m", None, [])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gs://b/k/l", ("b", "k/l")),
        ("GS://b", ("b", "")),
        ("gs://b/", ("b", "")),
        ("gs://b//k?x#y%20", ("b", "/k?x#y%20")),
        ("s3://b/k", ("", "")),
        ("gs:/b", ("", "")),
    ],
)
def test_split_uri(text: str, parts: tuple[str, str]) -> None:
    assert split_uri(text, "gs") == parts


@pytest.mark.parametrize(
    ("key", "prefix"), [("", ""), ("/", ""), ("m", "m/"), ("m/", "m/"), ("m/n//", "m/n/")]
)
def test_prefix(key: str, prefix: str) -> None:
    assert ObjectUri("gs", "b", key).prefix == prefix
    assert str(ObjectUri("gs", "b", key).under("a")) == f"gs://b/{prefix}a"
