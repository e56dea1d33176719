"""Tables of the documentation, made from `benchmarks/results/*.json`, so that a number on a page cannot differ from its file.

A page marks the place of a table:

    <!-- table: NAME -->
    …
    <!-- /table -->

or of a number in a sentence: `<!-- number: NAME -->…<!-- /number -->`.

`make docs-update` writes them into the pages, so that they are read on GitHub, too; the build of the site makes them again, and a test
compares. A new table is a function in this package with a line in `TABLES`, a new number is a line in `NUMBERS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tools.site.tables import accuracy, detectors, devices, int8, training
from tools.site.tables.formats import ROOT, read
from tools.site.tables.numbers import NUMBERS

from edgekit.terms import TERMS

__all__ = ["NUMBERS", "ROOT", "TABLES", "filled", "marked", "pages", "read"]

_MARKED = re.compile(
    r"(?P<start><!-- table: (?P<name>[\w-]+) -->\n)(?P<content>.*?)(?P<end><!-- /table -->)", re.DOTALL
)
_NUMBER = re.compile(r"(?P<start><!-- number: (?P<name>[\w-]+) -->)[^<]*(?P<end><!-- /number -->)")


def filled(markdown: str) -> str:
    """Return a page with every marked table and number made anew.

    Raises:
        KeyError: a marker names a table or number that is not in `TABLES` or `NUMBERS`.
    """
    page = _MARKED.sub(lambda found: f"{found['start']}{TABLES[found['name']]()}\n{found['end']}", markdown)
    return _NUMBER.sub(lambda found: f"{found['start']}{NUMBERS[found['name']]()}{found['end']}", page)


def marked(markdown: str) -> list[str]:
    """Return the names of the tables and numbers that a page marks."""
    return [found["name"] for pattern in (_MARKED, _NUMBER) for found in pattern.finditer(markdown)]


def pages() -> list[Path]:
    """Return the files that may mark tables and numbers: README.md and all pages of `docs/`."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def terms() -> str:
    """Return the terms of reports and tables with their meanings, by subject."""
    lines = []
    for subject, found in TERMS.items():
        lines += [f"## {subject}", "", "| term | meaning |", "|---|---|"]
        lines += [f"| {term.name} | {term.meaning} |" for term in found]
        lines.append("")
    return "\n".join(lines[:-1])


TABLES: dict[str, Callable[[], str]] = {
    "cifar10": accuracy.cifar10,
    "promise": accuracy.promise,
    "gains": accuracy.gains,
    "methods": accuracy.methods,
    "students": devices.students,
    "recognition-digits": partial(accuracy.recognition, "recognition_digits"),
    "recognition-cifar10": partial(accuracy.recognition, "recognition"),
    "anomaly": detectors.anomaly,
    "anomaly-peer": detectors.anomaly_peer,
    "anomaly-speed": detectors.anomaly_speed,
    "anomaly-trimmed": detectors.anomaly_trimmed,
    "terms": terms,
    "unknown": accuracy.unknown_scores,
    "finetuning": training.finetuning,
    "distillation": training.distillation,
    "multilabel-losses": training.multilabel_losses,
    "pretraining-speed": training.pretraining_speed,
    "pruning": training.pruning,
    "int8-configurations": int8.int8_configurations,
    "int8-recovery": int8.int8_recovery,
    "peers": int8.int8_peers,
    "session-overhead": devices.session_overhead,
    "installations": devices.installations,
    "large-folders": devices.large_folders,
    "phone-resizing": devices.phone_resizing,
    "mobile-fp32": lambda: devices.mobile("fp32"),
    "mobile-int8": lambda: devices.mobile("int8"),
    "mobile-official": devices.mobile_official,
    "mobile-trained": devices.mobile_trained,
}
