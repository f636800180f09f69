"""Reading over HTTP: kept-alive connections, retries, resumed ranges, for stores of every kind.

A kind of store adds a `Dialect`, which signs its requests and judges its refusals. The store gets
answers from `engine.py`, and a `Reader` from `reader.py`. No variable of a store is read here.
"""
