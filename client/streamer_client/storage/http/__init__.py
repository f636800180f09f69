"""Reading over HTTP: kept-alive connections, retries, resumed ranges. Nothing here is one store's.

A kind of store adds a `Dialect`, which says how its requests are signed and what its refusals mean.
It gets answers from `engine.py`, and a `Reader` from `reader.py`. No variable of a store is read
here.
"""
