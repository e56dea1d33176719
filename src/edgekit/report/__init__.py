"""A run as one self-contained HTML page: facts are read, numbers chosen, tables and charts drawn, a template filled.

It can be called, too: `edgekit.report(…)` is `edgekit.api.reporting.report`, which its signature shows.
"""
