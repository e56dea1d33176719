"""Tables of the documentation, made from `benchmarks/results/*.json`, so that a number on a page cannot differ from its file.

A page marks the place of a table:

    <!-- table: NAME -->
    …
    <!-- /table -->

`make docs-update` writes the tables into the pages, so that they are read on GitHub, too; the build of the site makes them again, and a test
compares. A new table is a function in this package with a line in `TABLES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tools.site.tables import accuracy, detectors, devices
from tools.site.tables.formats import ROOT, read

__all__ = ["ROOT", "TABLES", "filled", "marked", "pages", "read"]

_MARKED = re.compile(
    r"(?P<start><!-- table: (?P<name>[\w-]+) -->\n)(?P<content>.*?)(?P<end><!-- /table -->)", re.DOTALL
)


def filled(markdown: str) -> str:
    """Return a page with every marked table made anew.

    Raises:
        KeyError: a marker names a table that is not in `TABLES`.
    """
    return _MARKED.sub(lambda found: f"{found['start']}{TABLES[found['name']]()}\n{found['end']}", markdown)


def marked(markdown: str) -> list[str]:
    """Return the names of the tables that a page marks."""
    return [found["name"] for found in _MARKED.finditer(markdown)]


def pages() -> list[Path]:
    """Return the files that may mark tables: README.md and all pages of `docs/`."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


TABLES: dict[str, Callable[[], str]] = {
    "cifar10": accuracy.cifar10,
    "promise": accuracy.promise,
    "gains": accuracy.gains,
    "methods": accuracy.methods,
    "students": devices.students,
    "recognition": accuracy.recognition,
    "anomaly": detectors.anomaly,
    "anomaly-peer": detectors.anomaly_peer,
    "anomaly-speed": detectors.anomaly_speed,
    "anomaly-trimmed": detectors.anomaly_trimmed,
    "embeddings": accuracy.embeddings,
    "unknown": accuracy.unknown_scores,
    "pretraining-speed": devices.pretraining_speed,
    "session-overhead": devices.session_overhead,
    "peers": devices.calibration_peers,
    "mobile-fp32": lambda: devices.mobile("fp32"),
    "mobile-int8": lambda: devices.mobile("int8"),
    "mobile-official": devices.mobile_official,
    "mobile-trained": devices.mobile_trained,
}
