"""Tests. A regular package, so that no installed distribution's `tests` shadows it."""
