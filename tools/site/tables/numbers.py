"""Single numbers of result files and of the demo's report, for sentences."""

from __future__ import annotations

import re
from collections.abc import Callable

from tools.site.tables.formats import ROOT, decimals, percents, read


def _hour(labels: float, key: str) -> str:
    return percents(next(row[key] for row in read("cifar10_hour")["rows"] if row["labels"] == labels))


def _pretraining(width: float) -> str:
    rows = read("pretrain_throughput")["rows"]
    return decimals(next(row["ratio"] for row in rows if (row["size"], row["width"]) == (32, width)), 2)


def _session_cost() -> str:
    """Return the range of what `Session.run` adds, in %, on models whose own call takes a millisecond or more."""
    costs = [row["ratio"] - 1 for row in read("session_overhead")["measurements"] if row["bare_ms"] >= 1]
    return f"{percents(min(costs), 2)} to {percents(max(costs), 2)}"


def _p50(network: str, name: str) -> float:
    times = {row["name"]: row["p50_ms"] for row in read(f"export_peers_{network}")["rows"]}
    return float(times[name])


def _phone_loss(noise: str) -> str:
    found = read("phone_resize")["accuracy"][noise]
    return percents(found["pillow"] - found["4 neighbors"])


def _demo(part: str) -> str:
    """Return a part of the sentence about the gain in the report of `make demo`."""
    page = (ROOT / "docs" / "reports" / "digits.html").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    found = re.search(
        r"Gain from unlabeled images (?P<gain>[+−-][\d.]+) points student (?P<student>[\d.]+) %, the same network from scratch"
        r" on the same labels (?P<scratch>[\d.]+) %; 95 % interval (?P<interval>[+−-][\d.]+ to [+−-][\d.]+)",
        text,
    )
    if found is None:
        raise ValueError("docs/reports/digits.html: no sentence about the gain from unlabeled images")
    return found[part]


NUMBERS: dict[str, Callable[[], str]] = {
    "demo-student": lambda: _demo("student"),
    "demo-scratch": lambda: _demo("scratch"),
    "demo-gain": lambda: _demo("gain"),
    "demo-interval": lambda: _demo("interval"),
    "hour-1-student": lambda: _hour(0.01, "student"),
    "hour-1-teacher": lambda: _hour(0.01, "teacher"),
    "hour-1-probe": lambda: _hour(0.01, "frozen_probe"),
    "hour-10-student": lambda: _hour(0.1, "student"),
    "hour-10-teacher": lambda: _hour(0.1, "teacher"),
    "hour-10-probe": lambda: _hour(0.1, "frozen_probe"),
    "foundation-student": lambda: percents(read("foundation_teacher")["outcome"]["student"]),
    "foundation-scratch": lambda: percents(read("foundation_teacher")["outcome"]["same student from nothing"]),
    "simclr-quarter": lambda: _pretraining(0.25),
    "simclr-whole": lambda: _pretraining(1.0),
    "session-cost": _session_cost,
    "int8-edgekit": lambda: decimals(_p50("resnet10", "float") / _p50("resnet10", "edgekit"), 2),
    "int8-optimum": lambda: decimals(_p50("resnet10", "float") / _p50("resnet10", "optimum, minmax"), 2),
    "float-resnet10": lambda: decimals(_p50("resnet10", "float"), 3),
    "float-mobilenetv3": lambda: decimals(_p50("mobilenetv3", "float"), 3),
    "phone-loss-clean": lambda: _phone_loss("0"),
    "phone-loss-noisy": lambda: _phone_loss("60"),
    "bytecode": lambda: decimals(
        read("device_install")["installs"]["newest"]["bytecode_bytes"]["of everything"] / 1e6, 0
    ),
}
