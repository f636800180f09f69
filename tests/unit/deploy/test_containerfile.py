"""deploy/Containerfile copies all files that its script reads, and the engine gets no others."""

from __future__ import annotations

import re
from typing import Final

from tests.support.manifests import DEPLOY

ROOT: Final = DEPLOY.parent
COPIED: Final = frozenset(
    name
    for line in re.findall(
        r"^COPY (?!--from)(.*) \S+$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE
    )
    for name in line.split()
)


def test_what_the_script_puts_into_the_image_is_copied() -> None:
    script = (ROOT / "systemd" / "stage").read_text()
    (copy,) = re.findall(r'^ *cp -r (.*) "\$scratch"$', script, re.MULTILINE)
    put = re.findall(r"^ *put ([A-Z]\S*|[a-z]+/\S+) ", script, re.MULTILINE)
    read = {*copy.split(), *(name.partition("/")[0] for name in put)}
    assert {"setup.py", "CHANGELOG.md", "systemd"} <= read <= COPIED


def test_the_engine_is_sent_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == COPIED
