"""Dates as HTTP writes them. Pure."""

from __future__ import annotations

import datetime as dt
import email.utils


def date_of(text: str) -> dt.datetime | None:
    """An HTTP date as a time in UTC; None where it is none."""
    try:
        found = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)
