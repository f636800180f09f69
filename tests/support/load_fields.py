"""Short ways for tests to say what a load is opened with."""

from __future__ import annotations

from collections.abc import Mapping

from streamer_client.contract.options import LoadOptions

NOT_HELD = LoadOptions(hold=False)


def load_fields(given: Mapping[str, object]) -> dict[str, object]:
    """Fields of `Open` or `LoadOpened`, the options of the load among them put into one value.

    A test that says nothing about `hold` means a load that gives memory back on the way.
    """
    mine = set(LoadOptions.__struct_fields__)
    options: dict[str, object] = {"hold": False, **{k: v for k, v in given.items() if k in mine}}
    rest = {name: value for name, value in given.items() if name not in mine}
    return {**rest, "options": LoadOptions(**options)}  # type: ignore[arg-type]  # a test's words
