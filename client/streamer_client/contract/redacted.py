"""Structs that carry a caller's environment and never show it.

Secrets travel in `environment`: whatever prints, logs or formats a message that has one sees the
names of its variables only. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

HIDDEN: Final = "***"
_SECRET: Final = re.compile(
    r"SECRET|TOKEN|PASSWORD|CREDENTIAL|ACCOUNT_KEY|SAS|CONNECTION_STRING|USERINFO|QUERY|BEARER"
)
"""Variables whose values are secrets; an access key's id, a region or an endpoint is none."""
_USER_INFO: Final = re.compile(r"://.*@")
"""A URL with a password in it, such as a proxy's; the password may have a slash."""
_LEAST_LETTERS: Final = 6
"""Shorter values are no secrets, and hiding them would spoil every text they occur in."""


class Redacted(msgspec.Struct, frozen=True):
    """Base of structs whose `environment`, if they have one, is shown without its values."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        if "environment" in shown:
            shown["environment"] = dict.fromkeys(shown["environment"], HIDDEN)
        return list(shown.items())

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """A text from elsewhere, such as a library's error, with the environment's secrets hidden."""
    secrets = [
        re.escape(value)
        for name, value in environment.items()
        if len(value) >= _LEAST_LETTERS and (_SECRET.search(name) or _USER_INFO.search(value))
    ]
    return (
        re.sub("|".join(sorted(secrets, key=len, reverse=True)), HIDDEN, text) if secrets else text
    )
