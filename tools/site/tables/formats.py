"""Result files, and numbers and tables as the pages show them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.shares import hundredths

ROOT = Path(__file__).resolve().parents[3]


def read(name: str) -> Any:
    """Return a result file of `benchmarks/results/`."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "|" + "|".join(cell if cell == "---" else f" {cell} " if cell else " " for cell in line) + "|" for line in lines
    )


def percents(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else hundredths(share, digits)


def decimals(value: float, digits: int) -> str:
    """Return a number with this many decimals, a half rounded away from zero."""
    return hundredths(value / 100, digits)


def points(share: float) -> str:
    return hundredths(share, signed=True)


def milliseconds(value: float) -> str:
    """Return milliseconds with three digits: `0.400`, `24.8`."""
    return f"{value:#.3g}".removesuffix(".")


def interval(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
