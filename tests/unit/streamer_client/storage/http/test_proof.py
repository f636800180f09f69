"""Proofs of an object's content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer_client.storage.http.proof import ObjectProof, listed_proof, proof_in, proof_of

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
LATER = "Wed, 21 Oct 2026 07:28:01 GMT"
MUCH_LATER = "Wed, 21 Oct 2026 07:29:00 GMT"


def test_conditions() -> None:
    assert ObjectProof(1, '"x"', DATE).conditions() == {"If-Match": '"x"'}
    assert ObjectProof(1, 'W/"x"', DATE).conditions() == {"If-Unmodified-Since": DATE}
    assert ObjectProof(1, "", DATE).conditions() == {"If-Unmodified-Since": DATE}
    assert ObjectProof(1).conditions() == {}
    assert not ObjectProof(1).proves
    assert ObjectProof(1, "", DATE).proves


@pytest.mark.parametrize(
    ("proof", "headers", "differs"),
    [
        (ObjectProof(1, '"x"'), {"etag": '"x"'}, False),
        (ObjectProof(1, '"x"'), {"etag": '"y"'}, True),
        (ObjectProof(1, '"x"'), {"etag": "x"}, False),
        (ObjectProof(1, '"x"'), {"etag": 'W/"x"'}, False),
        (ObjectProof(1, '"x"'), {}, False),
        (ObjectProof(1, '"x"', DATE), {"etag": '"x"', "last-modified": LATER}, False),
        (ObjectProof(1, "", DATE), {"last-modified": LATER}, True),
        (ObjectProof(1, "", DATE), {"last-modified": DATE}, False),
        (ObjectProof(1, 'W/"x"', DATE), {"etag": 'W/"x"', "last-modified": LATER}, True),
        (ObjectProof(1, '"x"', "", "v1"), {"etag": '"x"', "x-amz-version-id": "v2"}, True),
        (ObjectProof(1, '"x"', "", "v1"), {"etag": '"x"', "x-amz-version-id": "v1"}, False),
        (ObjectProof(1, '"x"', "", "1"), {"etag": '"x"', "x-goog-generation": "2"}, True),
    ],
)
def test_differences(proof: ObjectProof, headers: dict[str, str], differs: bool) -> None:
    assert bool(proof.difference(headers)) == differs


@pytest.mark.parametrize(
    ("headers", "lasting"),
    [
        ({}, False),
        ({"etag": '"x"'}, True),
        ({"etag": 'W/"x"'}, False),
        ({"x-amz-version-id": "v"}, True),
        ({"x-amz-version-id": "null"}, False),
        ({"last-modified": DATE}, False),
        ({"last-modified": DATE, "date": LATER}, False),
        ({"last-modified": DATE, "date": MUCH_LATER}, True),
        ({"last-modified": MUCH_LATER, "date": DATE}, False),
        ({"last-modified": "yesterday", "date": MUCH_LATER}, False),
        ({"etag": 'W/"x"', "last-modified": DATE, "date": MUCH_LATER}, True),
    ],
)
def test_what_is_served_from_memory(headers: dict[str, str], lasting: bool) -> None:
    """A date is a proof only after the second that it names has been over for a minute."""
    assert proof_of(headers, 1).lasting == lasting


def test_a_date_that_settles_meanwhile_is_the_same_content() -> None:
    early, late = (proof_of({"last-modified": DATE, "date": now}, 1) for now in (LATER, MUCH_LATER))
    assert early.identity("s3", "aws") == late.identity("s3", "aws")


def test_identity_changes_with_all_that_proves() -> None:
    proofs = [
        ObjectProof(1, '"x"'),
        ObjectProof(2, '"x"'),
        ObjectProof(1, '"y"'),
        ObjectProof(1, "", "", "v"),
        ObjectProof(1, "", DATE),
        ObjectProof(1, "", LATER),
        ObjectProof(1, 'W/"x"', DATE),
    ]
    identities = [proof.identity("s3", "aws") for proof in proofs]
    assert len({*identities, proofs[0].identity("s3", "https://h")}) == len(proofs) + 1
    assert identities[0] == 's3:aws 1 - "x"'
    assert ObjectProof(1, '"x"', DATE, "v").identity("s3", "aws") == identities[0]


def test_unversioned_buckets_have_no_version() -> None:
    assert proof_of({"etag": '"x"', "x-amz-version-id": "null"}, 1) == ObjectProof(1, '"x"')


SIZES = st.integers(0, 10**18 - 1)
TAGS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"'))
TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)


@given(SIZES, TAGS, TEXTS, TEXTS)
def test_a_strong_etag_comes_back_out_of_the_identity(
    size: int, tag: str, modified: str, version: str
) -> None:
    proof = ObjectProof(size, f'"{tag}"', modified, version)
    identity = proof.identity("s3", "https://h:9")
    assert proof_in(identity, "s3", "https://h:9") == ObjectProof(size, f'"{tag}"')
    assert proof_in(identity, "s3", "https://h") is None
    assert proof_in(identity, "az", "https://h:9") is None
    listed = listed_proof(str(size), f'"{tag}"')
    assert listed is not None
    assert listed.identity("s3", "https://h:9") == identity


@given(SIZES, TEXTS, TEXTS, TEXTS.filter(lambda text: text != "-"))
def test_nothing_else_does(size: int, tag: str, modified: str, version: str) -> None:
    for etag in ("", f'W/"{tag}"'):
        identity = ObjectProof(size, etag, modified, version).identity("s3", "aws")
        assert proof_in(identity, "s3", "aws") is None


@given(st.text(), st.text())
def test_an_entry_of_a_listing_proves_all_or_nothing(size: str, tag: str) -> None:
    proof = listed_proof(size, tag)
    if proof is not None:
        assert proof.strong
        assert proof_in(proof.identity("s3", "aws"), "s3", "aws") == proof
