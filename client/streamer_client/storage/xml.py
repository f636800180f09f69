"""Parses the simple XML of S3's and Azure's answers into a tree of texts. Pure.

Only expat parses it, because Python has expat in memory anyway. A document type is refused: no
answer has one, and it could define entities, through which XML attacks its readers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat


@dataclass(slots=True)
class Element:
    """One element; names have no namespace."""

    name: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, name: str) -> Iterator[Element]:
        """The children of that name."""
        return (child for child in self.children if child.name == name)

    def value(self, name: str) -> str:
        """The text of the first child of that name; empty if there is none."""
        return next((child.text for child in self.all(name)), "")


class NotXml(ValueError):
    """The text is no XML document, or one with a document type."""


def parse_xml(body: bytes) -> Element:
    """Parse a document and return its root element.

    Raises:
        NotXml: the text is not XML.
    """
    root = Element("")
    open_elements = [root]

    def start(name: str, _attributes: object) -> None:
        element = Element(name.rpartition(":")[2])
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def end(_name: str) -> None:
        open_elements.pop()

    def text(data: str) -> None:
        open_elements[-1].text += data

    def doctype(*_args: object) -> None:
        raise NotXml("it has a document type")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise NotXml(str(error)) from error
    return root.children[0]
