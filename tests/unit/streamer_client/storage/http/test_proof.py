"""What proves the content of an object."""

from __future__ import annotations

import pytest

from streamer_client.storage.http.proof import Proof, proof_of

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
LATER = "Wed, 21 Oct 2026 07:28:01 GMT"
MUCH_LATER = "Wed, 21 Oct 2026 07:29:00 GMT"


def test_conditions() -> None:
    assert Proof(1, '"x"', DATE).conditions() == {"If-Match": '"x"'}
    assert Proof(1, 'W/"x"', DATE).conditions() == {"If-Unmodified-Since": DATE}
    assert Proof(1, "", DATE).conditions() == {"If-Unmodified-Since": DATE}
    assert Proof(1).conditions() == {}
    assert not Proof(1).proves
    assert Proof(1, "", DATE).proves


@pytest.mark.parametrize(
    ("proof", "headers", "differs"),
    [
        (Proof(1, '"x"'), {"etag": '"x"'}, False),
        (Proof(1, '"x"'), {"etag": '"y"'}, True),
        (Proof(1, '"x"'), {"etag": "x"}, False),
        (Proof(1, '"x"'), {"etag": 'W/"x"'}, False),
        (Proof(1, '"x"'), {}, False),
        (Proof(1, '"x"', DATE), {"etag": '"x"', "last-modified": LATER}, False),
        (Proof(1, "", DATE), {"last-modified": LATER}, True),
        (Proof(1, "", DATE), {"last-modified": DATE}, False),
        (Proof(1, 'W/"x"', DATE), {"etag": 'W/"x"', "last-modified": LATER}, True),
        (Proof(1, '"x"', "", "v1"), {"etag": '"x"', "x-amz-version-id": "v2"}, True),
        (Proof(1, '"x"', "", "v1"), {"etag": '"x"', "x-amz-version-id": "v1"}, False),
        (Proof(1, '"x"', "", "1"), {"etag": '"x"', "x-goog-generation": "2"}, True),
    ],
)
def test_differences(proof: Proof, headers: dict[str, str], differs: bool) -> None:
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
    """A date only where the second that it names was over for a minute."""
    assert proof_of(headers, 1).lasting == lasting


def test_a_date_that_settles_meanwhile_is_the_same_content() -> None:
    early, late = (proof_of({"last-modified": DATE, "date": now}, 1) for now in (LATER, MUCH_LATER))
    assert early.identity("s3", "aws") == late.identity("s3", "aws")


def test_identity_changes_with_all_that_proves() -> None:
    proofs = [
        Proof(1, '"x"'),
        Proof(2, '"x"'),
        Proof(1, '"y"'),
        Proof(1, '"x"', "", "v"),
        Proof(1, "", DATE),
        Proof(1, "", LATER),
        Proof(1, 'W/"x"', DATE),
    ]
    identities = [proof.identity("s3", "aws") for proof in proofs]
    assert len({*identities, proofs[0].identity("s3", "https://h")}) == len(proofs) + 1
    assert identities[0] == 's3:aws 1 - "x"'
    assert Proof(1, '"x"', DATE).identity("s3", "aws") == identities[0]


def test_unversioned_buckets_have_no_version() -> None:
    assert proof_of({"etag": '"x"', "x-amz-version-id": "null"}, 1) == Proof(1, '"x"')
