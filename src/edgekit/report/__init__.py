"""Write a run as one self-contained HTML page: read the facts, choose the numbers, draw tables and charts, fill a template.

The module is also callable: `edgekit.report(…)` calls `edgekit.api.reporting.report`, which documents the arguments.
"""
