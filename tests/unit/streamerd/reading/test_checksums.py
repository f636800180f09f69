"""Checksums by block, and their form in a file."""

import pytest

from streamerd.reading.checksums import Checksums


def test_they_come_back_as_they_were_packed() -> None:
    checksums = Checksums(3)
    checksums[0], checksums[2] = 1, 2**64 - 1
    packed = checksums.packed()
    assert packed == b"\x01" + bytes(15) + b"\xff" * 8
    again = Checksums.unpacked(packed)
    assert [again[block] for block in range(len(again))] == [1, 0, 2**64 - 1]


def test_packing_changes_nothing() -> None:
    checksums = Checksums(1)
    checksums[0] = 258
    checksums.packed()
    assert checksums[0] == 258


def test_torn_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        Checksums.unpacked(bytes(9))
