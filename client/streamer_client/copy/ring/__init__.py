"""The ring: pinned slots that bytes pass through on their way to a GPU.

`engine.py` drives a ring as one of the copier's engines. `lanes.py` defines the interface of a
ring. A ring is either compiled (`native.py`, `ring.c`) or made of torch alone (`torch_ring.py`).
`shape.py` chooses a ring's size and its threads' cores.
"""
