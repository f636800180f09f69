"""The little XML of S3."""

from __future__ import annotations

import pytest

from streamer_client.storage.xml import NotXml, parse_xml


def test_a_tree_without_namespaces() -> None:
    root = parse_xml(
        b'<a xmlns="u"><x:b xmlns:x="v"> 1 &amp; \xc3\xbc</x:b><b>2</b><c><d/></c></a>'
    )
    assert root.name == "a"
    assert [element.text for element in root.all("b")] == [" 1 & \u00fc", "2"]
    assert root.value("b") == " 1 & \u00fc"
    assert root.value("none") == ""
    assert next(root.all("c")).children[0].name == "d"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"oops",
        b"<a>",
        b"<a/><b/>",
        b"\xff\xfe",
        b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
        b"<!DOCTYPE html><html></html>",
    ],
)
def test_what_is_no_xml(body: bytes) -> None:
    with pytest.raises(NotXml):
        parse_xml(body)
