"""The identity of a file's shard: everything that tells contents apart, and nothing about names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamerd.reading.editions import Editions, edition_key, edition_of, twin

numbers = st.integers(0, 2**63 - 1)
parts = st.tuples(
    numbers,
    numbers,
    numbers,
    numbers,
    st.none() | st.integers(0, 10**6),
    st.none() | st.integers(0, 2**32 - 2),
)
Parts = tuple[int, int, int, int, int | None, int | None]


def identity(of: Parts) -> str:
    device, inode, size, mtime_ns, diskseq, uid = of
    text = f"file:{device}:{inode}:{size}:{mtime_ns}"
    text += "" if diskseq is None else f":disk{diskseq}"
    return text if uid is None else f"{text}:uid{uid}"


@given(one=parts, other=parts, edition=st.integers(0, 5), later=st.integers(0, 5))
def test_shards_are_one_exactly_where_file_content_and_edition_are(
    one: Parts, other: Parts, edition: int, later: int
) -> None:
    same = (one, edition) == (other, later)
    assert (edition_key(identity(one), edition) == edition_key(identity(other), later)) == same


@given(one=parts, size=numbers, mtime_ns=numbers, diskseq=st.none() | st.integers(0, 9))
def test_another_content_of_one_file_replaces_it(
    one: Parts, size: int, mtime_ns: int, diskseq: int | None
) -> None:
    """The core gives up older contents of the same `uri`."""
    device, inode, _, _, _, uid = one
    rewritten = identity((device, inode, size, mtime_ns, diskseq, uid))
    assert edition_key(identity(one), 0).uri == edition_key(rewritten, 0).uri


@given(one=parts, other=parts)
def test_another_file_or_user_replaces_nothing(one: Parts, other: Parts) -> None:
    same = (one[0], one[1], one[5]) == (other[0], other[1], other[5])
    assert (edition_key(identity(one), 0).uri == edition_key(identity(other), 0).uri) == same


@given(of=parts, edition=st.integers(0, 10**6))
def test_an_edition_is_read_from_its_key(of: Parts, edition: int) -> None:
    key = edition_key(identity(of), edition)
    content, found = edition_of(key)
    assert found == edition
    assert edition_key(identity(of), 0).identity.startswith(content)


@given(of=parts, times=st.integers(1, 5))
def test_each_supersession_begins_the_next_edition(of: Parts, times: int) -> None:
    editions = Editions()
    seen = [editions.key_of(identity(of))]
    for _ in range(times):
        editions.supersede(seen[-1])
        seen.append(editions.key_of(identity(of)))
    assert len(set(seen)) == times + 1
    assert len({key.uri for key in seen}) == 1
    # Superseding an old edition once more changes nothing.
    editions.supersede(seen[0])
    assert editions.key_of(identity(of)) == seen[-1]


@given(of=parts, adopted=st.lists(st.integers(0, 9), min_size=1))
def test_a_daemon_goes_on_from_the_newest_that_it_adopted(of: Parts, adopted: list[int]) -> None:
    editions = Editions()
    editions.note(edition_key(identity(of), edition) for edition in adopted)
    assert editions.key_of(identity(of)) == edition_key(identity(of), max(adopted))


def test_a_touched_file_is_the_edition_that_it_was() -> None:
    """ctime is no part of an identity. Another size or mtime is another content."""
    editions = Editions()
    first = editions.key_of("file:8:1:100:5")
    editions.supersede(first)
    assert editions.key_of("file:8:1:100:5") != first
    assert editions.key_of("file:8:1:100:6") == edition_key("file:8:1:100:6", 0)


def test_an_objects_key_has_no_edition() -> None:
    from streamerd.state.events import ShardKey

    key = ShardKey("s3://b/k", "etag #1a")
    assert edition_of(key) == ("etag #1a", 0)


@given(of=parts, number=st.integers(1, 99))
def test_a_second_name_in_one_load_is_a_shard_of_its_own(of: Parts, number: int) -> None:
    key = edition_key(identity(of), 0)
    assert twin(key, number) != key
    assert twin(key, number).uri != key.uri
    assert twin(key, number) != twin(key, number + 1)
