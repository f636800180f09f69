"""What a shared access signature says of itself: until when it holds. Pure."""

from __future__ import annotations

import datetime as dt
from urllib.parse import parse_qs


def expiry_of(sas: str) -> dt.datetime | None:
    """The end of its time in UTC; None where it tells none (a stored policy may hold it).

    Args:
        sas: a query without its question mark.
    """
    text = parse_qs(sas).get("se", [""])[0]
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)
