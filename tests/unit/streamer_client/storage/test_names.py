"""The order of names, the names that a pattern takes, and their list in errors."""

from __future__ import annotations

import random

from streamer_client.storage.names import natural_key, select, some_of


def test_natural_order() -> None:
    ordered = ["a", "part-1", "part-2", "part-02", "part-10", "part-10b", "x2y3", "x2y10", "x10y1"]
    ordered = ["a", "part-02", "part-2", *ordered[4:]]
    shuffled = random.Random(7).sample(ordered, len(ordered))
    assert sorted(shuffled, key=natural_key) == ordered


def test_digits_at_the_start_and_other_scripts_can_be_compared() -> None:
    assert sorted(["b", "10", "9", "٣", ""], key=natural_key) == ["", "9", "10", "b", "٣"]


def test_a_number_of_any_length_has_a_place() -> None:
    long = "9" * 5000
    assert sorted([f"m-{long}", "m-10", "m-010", "m-0"], key=natural_key) == [
        *("m-0", "m-010", "m-10", f"m-{long}")
    ]


def test_select_is_a_shells_glob() -> None:
    names = ["b.safetensors", "a.safetensors", "._a.safetensors", "A.SAFETENSORS", "a.json"]
    assert select(names, "*.safetensors") == ["a.safetensors", "b.safetensors"]
    assert select(names, "._*") == ["._a.safetensors"]
    assert select(names, "[bc].*") == ["b.safetensors"]


def test_a_list_in_an_error_is_short() -> None:
    assert some_of([]) == "nothing at all"
    assert some_of(["b", "a"]) == "a, b"
    assert some_of([f"f{n}" for n in range(20)]) == "f0, f1, f2, f3, f4, f5, f6, f7 and 12 more"
