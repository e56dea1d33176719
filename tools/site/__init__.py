"""Build the documentation site: pages from the commands, the schemas and the measurements. See `hooks.py`."""
