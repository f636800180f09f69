"""A short form for tests of the fields with which a load is opened."""

from __future__ import annotations

from collections.abc import Mapping

from streamer_client.contract.options import LoadOptions

NOT_HELD = LoadOptions(hold=False)


def load_fields(given: Mapping[str, object]) -> dict[str, object]:
    """Fields of `Open` or `LoadOpened`, with the options of the load joined into one value.

    Without `hold`, a test means a load that gives memory back on the way.
    """
    mine = set(LoadOptions.__struct_fields__)
    options: dict[str, object] = {"hold": False, **{k: v for k, v in given.items() if k in mine}}
    rest = {name: value for name, value in given.items() if name not in mine}
    return {**rest, "options": LoadOptions(**options)}  # type: ignore[arg-type]  # a test's words
