"""Reading over HTTP: kept-alive connections, retries, resumed ranges. Knows no store's language.

A kind of store adds a `Dialect` (how its requests are signed, what its refusals mean) and gets from
`engine.py` answers, and from `reader.py` a `Reader`.
"""
