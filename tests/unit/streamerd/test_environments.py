"""Environments of loads: kept as long as the load, compared as a whole, never shown."""

from streamerd.environments import Environments
from streamerd.state.events import LoadKey

A, B = LoadKey("a", 1), LoadKey("b", 1)


def test_each_load_reads_with_its_own() -> None:
    environments = Environments()
    environments.lend(A, {"KEY": "1"})
    assert environments.of(A) == {"KEY": "1"}
    assert environments.of(B) == {}
    assert A in environments
    assert B not in environments


def test_who_lends_the_same_is_told_together_until_renewed() -> None:
    environments = Environments()
    environments.lend(A, {"KEY": "1"})
    environments.lend(B, {"KEY": "1"})
    assert environments.lending({"KEY": "1"}) == (A, B)
    assert environments.renew(A, {"KEY": "2"})
    assert not environments.renew(A, {"KEY": "2"})
    assert environments.lending({"KEY": "1"}) == (B,)


def test_an_ended_loads_secrets_are_forgotten() -> None:
    environments = Environments()
    environments.lend(A, {"KEY": "secret"})
    environments.lend(B, {})
    environments.keep({B})
    assert len(environments) == 1
    assert environments.of(A) == {}


def test_nothing_is_shown() -> None:
    environments = Environments()
    environments.lend(A, {"KEY": "secret"})
    assert "secret" not in repr(environments)
