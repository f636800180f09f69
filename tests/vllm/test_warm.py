"""Programs that run in forks of the process that has imported vLLM end as in an interpreter of
their own.
"""

from __future__ import annotations

import pytest

from tests.vllm.starts import Starts


@pytest.mark.parametrize(
    ("arguments", "returncode"), [(("--help",), 0), (("nowhere.json",), 2), (("/dev/null",), 1)]
)
def test_exit_code_and_output(arguments: tuple[str, ...], returncode: int, starts: Starts) -> None:
    warm = starts.run("json.tool", *arguments)
    assert warm == starts.run_cold("json.tool", *arguments)
    assert warm.returncode == returncode
    assert warm.output


def test_an_environment_and_imports_of_its_own(starts: Starts) -> None:
    """A program does not see the changes that an earlier program made in its process."""
    for mode, stock in (("off", True), ("auto", False), ("off", True)):
        done = starts.run("tests.vllm.registered", STREAMERD_MODE=mode)
        assert ("'vllm.model_executor.model_loader" in done.output) is stock, done.output
