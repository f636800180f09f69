"""Sizes in text: the forms that people write, and the form that is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer_client.contract.sizes import exact_size, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("64GiB", 64 << 30),
        ("500MB", 500_000_000),
        ("4096", 4096),
        (4096, 4096),
        ("1.5 KiB", 1536),
        (" 2tib ", 2 << 40),
        ("0", 0),
        ("12B", 12),
    ],
)
def test_what_people_write_is_read(text: str | int, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "1e9", "64 G", "64GiBs", "٤", "1.1B", True, None, 1.5, [1]]
)
def test_anything_else_is_refused_and_named(text: object) -> None:
    with pytest.raises(ValueError, match="is not a") as error:
        parse_size(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1023, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (8 << 20, "8.00 MiB"),
        (64 << 30, "64.0 GiB"),
        (250 << 30, "250 GiB"),
        ((1 << 40) - 1, "1.00 TiB"),
        (1 << 70, "1048576 PiB"),
    ],
)
def test_sizes_are_shown_with_three_digits(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@given(st.integers(min_value=0, max_value=1 << 62))
def test_an_exact_size_reads_back_unchanged(size_bytes: int) -> None:
    assert parse_size(exact_size(size_bytes)) == size_bytes
