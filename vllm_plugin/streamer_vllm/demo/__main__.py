"""`python -m streamer_vllm.demo`: what `make demo` runs."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from streamer_vllm.demo.children import DemoFailed
from streamer_vllm.demo.run import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m streamer_vllm.demo", description=__doc__)
    parser.add_argument(
        "--directory", metavar="DIR", default=".demo", help="for model and logs (.demo)"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, so nothing stays
    try:
        run(options.directory)
    except DemoFailed as error:
        sys.stderr.write(f"\ndemo failed: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; everything that the demo started is stopped\n")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
