"""streamerctl: parses the command line, runs one subcommand, and gives its outcome an exit code.

An error is shown as one line on stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from streamer_client.contract.errors import StreamerError
from streamerd.cli.arguments import control_parser
from streamerd.cli.terminal import DONE, FAILED, console, exit_code_of, one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run streamerctl; the exit code is one of those in `terminal`."""
    try:
        arguments = control_parser().parse_args(argv)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except StreamerError as error:
        console(sys.stderr).print(one_line(f"streamerctl: {error}"), style="red", soft_wrap=True)
        return exit_code_of(error)
    except BrokenPipeError:
        # The process that read our output wants no more of it. The interpreter flushes stdout once
        # more at its end, and that must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return FAILED
    return status


if __name__ == "__main__":
    sys.exit(main())
