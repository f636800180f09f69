"""A cut names the bytes of a view, each once and in order, and parts of a cut tile it."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from streamer_client.copy.cut import Cut, Dimension, Part, cut_of, pieces_of, reach_of


def test_rows_of_a_second_dimension() -> None:
    found = cut_of((4, 3), (8, 1), 4 * 8 + 2, 2)
    assert found is not None
    cut, layout = found
    assert cut == Cut((4 * 8 + 2) * 2, 6, (Dimension(4, 16),))
    assert (cut.rows, cut.size_bytes, cut.stop) == (4, 24, (7 * 8 + 5) * 2)
    assert layout.strides == (3, 1)


def test_whole_rows_are_one_run() -> None:
    found = cut_of((2, 8), (8, 1), 16, 4)
    assert found is not None
    assert found[0] == Cut(64, 64, ())


def test_a_transposed_view_is_read_as_it_is_stored() -> None:
    found = cut_of((8, 2), (1, 8), 0, 4)
    assert found is not None
    cut, layout = found
    assert cut == Cut(0, 64, ())
    assert layout.strides == (1, 8)


def test_an_expanded_view_takes_its_bytes_once() -> None:
    found = cut_of((5, 3), (0, 1), 6, 4)
    assert found is not None
    cut, layout = found
    assert cut == Cut(24, 12, ())
    assert layout.strides == (0, 1)


def test_overlapping_windows_are_no_rows() -> None:
    assert cut_of((3, 4), (2, 1), 0, 4) is None


cuts = st.builds(
    lambda start, row, steps: Cut(
        start,
        row,
        tuple(
            reversed(
                [
                    Dimension(times, reach * times_apart)
                    for times, times_apart, reach in itertools.accumulate(
                        steps,
                        lambda past, step: (step[0], step[1], past[2] * past[1] * past[0]),
                        initial=(1, 1, row),
                    )
                ][1:]
            )
        ),
    ),
    st.integers(0, 100),
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), max_size=3),
)


@given(cuts, st.integers(1, 60))
def test_parts_take_every_byte_of_the_rows_in_order(cut: Cut, part_bytes: int) -> None:
    wanted = [at + byte for at in cut.starts() for byte in range(cut.row_bytes)]
    assert wanted == sorted(set(wanted))
    taken: list[int] = []
    for start in range(0, cut.size_bytes, part_bytes):
        part = Part(start, min(start + part_bytes, cut.size_bytes))
        pieces = list(pieces_of(cut, part))
        assert reach_of(cut, part) == (pieces[0][0], pieces[-1][0] + pieces[-1][1])
        assert sum(size for _, size in pieces) == part.stop - part.start <= part_bytes
        taken.extend(byte for start, size in pieces for byte in range(start, start + size))
    assert taken == wanted
    assert cut.stop == wanted[-1] + 1


def test_a_part_within_a_row() -> None:
    cut = Cut(10, 8, (Dimension(2, 20),))
    assert list(pieces_of(cut, Part(3, 12))) == [(13, 5), (30, 4)]
