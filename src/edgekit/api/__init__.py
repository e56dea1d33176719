"""The public Python face: what the commands do, as functions. `edgekit/__init__.py` names them; each is imported when it is first used.

The commands call the same functions, so that both give the same files.
"""
