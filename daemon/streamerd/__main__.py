"""Runs the daemon for `python -m streamerd`."""

import sys

from streamerd.main import main

sys.exit(main())
