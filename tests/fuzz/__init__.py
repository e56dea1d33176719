"""The fuzzer: damaged and forged files of every format that a command reads, and what the command may do with them.

`python -m tests.fuzz --minutes 5` (or `make fuzz MINUTES=5`) runs it at length; the tests beside it run a fixed sample. A case is a
number: the seed, the format and the number give the same input again, so `--format images --case 4711` repeats one.

What counts as right, whatever the bytes (`judge.py`): the command works, or it raises an `EdgekitError` whose message is one line of
printable characters. It ends within 20 seconds, within a bound of memory, and writes nowhere but into its own folders.
"""
