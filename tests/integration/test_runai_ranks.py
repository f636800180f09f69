"""Two ranks with a gloo group see the same of this distributed streamer as of Run:ai's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.runai_package import OURS, PACKAGE, package_missing, run_program, write_cases

LAUNCH: Final = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SEEN: Final = [[3, 0], [3, 1]]
ALONE: Final = [[False, 2, SEEN]] * 2
FAILED: Final = ["raises"] * 2
EXPECTED: Final[dict[str, Any]] = {
    "RUNAI_STREAMER_DIST=None": ALONE,
    "RUNAI_STREAMER_DIST=0": ALONE,
    "RUNAI_STREAMER_DIST=auto": ALONE,
    "RUNAI_STREAMER_DIST=1": [[True, 2, SEEN]] * 2,
    "RUNAI_STREAMER_DIST=perhaps": FAILED,
    "not asked for": ALONE,
    "tensors": [["a", "b", "behind.odd", "empty", "odd", "scalar"]] * 2,
    "a missing file in all ranks": FAILED,
    "a missing file in one rank": FAILED,
    "a range past the end in one rank": FAILED,
}
"""The answers of 0.17, and those of this package."""


@pytest.mark.parametrize("module", [OURS, PACKAGE])
def test_ranks_end_together(module: str, tmp_path: Path) -> None:
    if module == PACKAGE and (missing := package_missing()):
        pytest.skip(missing)
    write_cases(tmp_path)
    command = [*LAUNCH, "tests/support/runai_ranks.py", module, str(tmp_path)]
    environment = {"STREAMERD_MODE": "direct", "OMP_NUM_THREADS": "1"}
    assert run_program(command, module, environment) == EXPECTED
