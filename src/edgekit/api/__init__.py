"""The public Python API: the commands as functions. `edgekit/__init__.py` lists them; each is imported on first use.

The commands call the same functions, so both write the same files.
"""
