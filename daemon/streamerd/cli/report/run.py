"""The command `streamerctl report`: asks for the document, and shows or writes it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import msgspec

from streamer_client.contract.errors import SourceNotFound, StreamerError
from streamerd.cli.report.page import html
from streamerd.cli.report.text import load_in_full, table_of
from streamerd.cli.report.trace import trace
from streamerd.cli.request import Requester
from streamerd.cli.terminal import DONE, console
from streamerd.observe.document import ReportDocument, parse_report


def run(arguments: argparse.Namespace) -> int:
    """Show the last loads, or one; or write them to files."""
    with Requester(arguments.socket) as requester:
        document = _chosen(parse_report(requester.report()), arguments.load)
    if arguments.html:
        _write(arguments.html, html(document))
    if arguments.trace:
        _write(arguments.trace, json.dumps(trace(document)))
    if arguments.json:
        sys.stdout.write(json.dumps(document.body(), indent=2) + "\n")
    elif not (arguments.html or arguments.trace):
        out = console()
        if arguments.load is None:
            out.print(table_of(document.loads))
            if document.older_running:
                out.print(f"and {document.older_running} more that run, opened before these")
        else:
            out.print(load_in_full(document.loads[0]))
    return DONE


def _chosen(document: ReportDocument, number: int | None) -> ReportDocument:
    """The report of one load, or of all.

    Raises:
        SourceNotFound: the report has no load of this number.
    """
    if number is None:
        return document
    loads = tuple(load for load in document.loads if load.number == number)
    if not loads:
        raise SourceNotFound(
            f"load {number} is not remembered; `streamerctl report` lists those that are"
        )
    reads = tuple(read for read in document.reads if read.load == number)
    return msgspec.structs.replace(document, loads=loads, reads=reads)


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StreamerError(f"cannot write {path}: {error.strerror}") from error
    console(sys.stderr).print(f"written: {path}", soft_wrap=True)
