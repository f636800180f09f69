"""`streamerctl doctor`: checks what usually goes wrong, and prints a line with a remedy for each.

The modules `ask_*` gather facts and judge nothing. The others judge these facts and do no I/O. Only
`source` does both, since each of its steps needs the result of the step before.
"""
