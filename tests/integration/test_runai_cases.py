"""Programs written for Run:ai's API get the same answers here, over files and over an S3 server.

`runai_0_17_cases.json` records the answers of both packages; the page of differences is made from
it.
"""

from __future__ import annotations

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.runai_package import OURS, PACKAGE, package_missing
from tests.support.runai_record import PLACES, recorded, told


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "RUNAI_STREAMER_CONCURRENCY", "RUNAI_STREAMER_MEMORY_LIMIT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("place", PLACES)
def test_ours_without_a_daemon(place: str) -> None:
    assert told(OURS, place) == recorded()[place][OURS]


@pytest.mark.parametrize("place", PLACES)
def test_ours_through_a_daemon(place: str, streamerd: DaemonProcess) -> None:
    environment = {"STREAMERD_MODE": "required", "STREAMERD_SOCKET": streamerd.socket}
    assert told(OURS, place, **environment) == recorded()[place][OURS]


@pytest.mark.parametrize("place", PLACES)
def test_theirs_is_as_recorded(place: str) -> None:
    if missing := package_missing():
        pytest.skip(missing)
    assert told(PACKAGE, place) == recorded()[place][PACKAGE]
