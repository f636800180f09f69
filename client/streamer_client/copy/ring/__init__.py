"""The ring: pinned slots that bytes pass through on their way to a GPU.

`engine.py` drives it behind the copier's seam; a ring is compiled (`native.py`, `ring.c`) or made
of torch alone (`torch_ring.py`); `shape.py` chooses its size for the machine (`machine.py`).
"""
