"""Simulates a fleet that starts at once, with the real decisions of `streamerd.fleet.plan`.

    python -m benchmarks.fleet_simulation [--nodes N ...] [--blocks N ...] [--gbit N]

Only wires and time are simulated (`network.py`). `cases.py` has the fleets and their troubles;
`__main__.py` prints the table of docs/fleet.md.
"""
