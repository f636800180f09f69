"""Extracts a few files of a wheel in a package index, without downloading the rest.

`python -m tests.support.wheel_members REQUIREMENT DIRECTORY MEMBER...` reads the wheel's table of
contents and those members by ranges of bytes. It uses pip's own session, finder and lazy wheels, so
pip's configuration holds here too. Those are internals of pip, so a caller must be ready for a pip
whose internals differ. Runs as a separate process, because pip configures logging.
"""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Sequence
from typing import Any, Final

_CHUNK_BYTES: Final = 1 << 18
"""How much pip reads at once; the table of contents of a large wheel takes half a MiB."""


def extract(requirement: str, directory: str, members: Sequence[str]) -> None:
    """Write members of the wheel that pip would install for `name==version`."""
    commands: Any = importlib.import_module("pip._internal.commands")
    lazy: Any = importlib.import_module("pip._internal.network.lazy_wheel")
    specifiers: Any = importlib.import_module("pip._vendor.packaging.specifiers")
    command = commands.create_command("download")
    options, _ = command.parse_args(["--quiet", "--only-binary", ":all:", requirement])
    name, _, version = requirement.partition("==")
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        found = finder.find_best_candidate(name, specifiers.SpecifierSet(f"=={version}"))
        url = found.best_candidate.link.url_without_fragment
        with (
            lazy.LazyZipOverHTTP(url, session, _CHUNK_BYTES) as wheel,
            zipfile.ZipFile(wheel) as archive,
        ):
            archive.extractall(directory, members)


if __name__ == "__main__":
    extract(sys.argv[1], sys.argv[2], sys.argv[3:])
