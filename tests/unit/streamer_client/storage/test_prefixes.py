"""The objects that a source means, in a store that is a list of names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamer_client.contract.errors import ConfigError, SourceForbidden, SourceNotFound
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.object_uri import ObjectUri, split_uri
from streamer_client.storage.prefixes import ListedObject, Page, Prefixes
from streamer_client.storage.remembered import LISTINGS


class Names:
    """A store of these keys; permissions make `unlistable` and `unreadable` ones so."""

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
                below = (uri.prefix + name + "/",) if found and not deep else ()
                yield Page((), below) if below else Page((ListedObject(key),))

    def look(self, uri: ObjectUri) -> StoredShard:
        if self._unreadable:
            raise SourceForbidden(f"{uri}: may not be read")
        if uri.key not in self._keys:
            raise SourceNotFound(f"{uri}: does not exist")
        return StoredShard(str(uri), 1, "i")


class Telling(Names):
    """A store whose listing tells identities; for the keys in `lies` the served object has another
    one.
    """

    def __init__(self, count: int, name: str) -> None:
        super().__init__(*(f"m/{number}.safetensors" for number in range(count)))
        self._endpoint = name
        self.lies: set[str] = set()
        self.looks: list[str] = []
        self.listings = 0

    def pages(self, uri: ObjectUri, *, deep: bool) -> Iterator[Page]:
        self.listings += 1
        keys = [key for page in super().pages(uri, deep=deep) for key in page.keys]
        yield Page(tuple(map(self._listed, keys)))

    def look(self, uri: ObjectUri) -> StoredShard:
        self.looks.append(uri.key)
        super().look(uri)
        return StoredShard(str(uri), len(uri.key), self._identity(uri.key))

    def _listed(self, key: str) -> ListedObject:
        lie = "-lie" if key in self.lies else ""
        return ListedObject(key, len(key), self._identity(key) + lie)

    def _identity(self, key: str) -> str:
        return f"xs:{self._endpoint} {len(key)} - {key}"


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


# --- what need not be looked at


def test_a_listing_that_proves_is_checked_by_the_largest_object() -> None:
    store = Telling(40, "one")
    shards = Prefixes(store).list_shards("xs://b/m", None, None)
    assert len(shards) == 40
    assert store.looks == ["m/10.safetensors"]
    assert [shard.uri for shard in shards if shard.looked_at] == ["xs://b/m/10.safetensors"]
    store.looks.clear()
    assert len(Prefixes(store).list_all("xs://b/m")) == 40
    assert store.looks == []
    assert not any(shard.looked_at for shard in Prefixes(store).list_shards("xs://b/m", None, None))


def test_where_the_listing_lies_each_object_is_looked_at_until_it_is_right_again() -> None:
    store = Telling(40, "two")
    store.lies = {f"m/{number}.safetensors" for number in range(40)}
    for _ in range(2):
        store.looks.clear()
        shards = Prefixes(store).list_shards("xs://b/m", None, None)
        assert all(shard.looked_at and "lie" not in shard.identity for shard in shards)
        assert sorted(store.looks) == sorted(store.lies)
    assert LISTINGS.get("xs:two xs://b") is False
    store.lies.clear()
    for looks in (40, 1, 0):
        store.looks.clear()
        Prefixes(store).list_shards("xs://b/m", None, None)
        assert len(store.looks) == looks
    assert LISTINGS.get("xs:two xs://b") is True


class InParts(Telling):
    """A store that lists wrong ETags of the objects that were uploaded in parts: the even ones."""

    def _identity(self, key: str) -> str:
        parts = "-2" if int(key[2:].partition(".")[0]) % 2 == 0 else ""
        return f'xs:{self._endpoint} {len(key)} - "{key}{parts}"'

    def _listed(self, key: str) -> ListedObject:
        identity = self._identity(key)
        return ListedObject(key, len(key), identity.replace('-2"', '-1"'))


def test_objects_that_were_uploaded_in_parts_are_judged_apart() -> None:
    store = InParts(10, "parts")
    even = {f"m/{number}.safetensors" for number in range(0, 10, 2)}
    for looks in (6, 5):  # one of the others is looked at once
        store.looks.clear()
        shards = Prefixes(store).list_shards("xs://b/m", None, None)
        assert len(store.looks) == len(set(store.looks)) == looks
        assert even <= set(store.looks)
        assert all('-1"' not in shard.identity for shard in shards)
    assert LISTINGS.get("xs:parts xs://b") is True
    assert LISTINGS.get("xs:parts xs://b in parts") is False


def test_many_named_files_are_found_by_a_listing_and_few_are_looked_at() -> None:
    store = Telling(40, "three")
    names = [f"{number}.safetensors" for number in range(40)]
    shards = Prefixes(store).list_shards("xs://b/m", None, names)
    assert uris(shards) == [f"xs://b/m/{name}" for name in names]
    assert (store.listings, len(store.looks)) == (1, 1)
    with pytest.raises(SourceNotFound, match="xs://b/m/gone: does not exist"):
        Prefixes(store).list_shards("xs://b/m", None, [*names, "gone"])
    store.listings = 0
    Prefixes(store).list_shards("xs://b/m", None, names[:16])
    assert store.listings == 0


def test_many_named_files_are_looked_at_where_listing_is_not_allowed() -> None:
    names = [f"{number}" for number in range(20)]
    found = Prefixes(Names(*(f"m/{name}" for name in names), unlistable=True))
    assert len(found.list_shards("xs://b/m", None, names)) == 20
