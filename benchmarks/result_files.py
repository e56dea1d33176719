"""Result files that stay small: summaries of samples in the place of the samples, and JSON with one line a row.

A result file is read by people and kept in git, so it holds no raw samples: `summarize` gives what is quoted from them, and
`write_rows` writes what has no further parts, such as one row of a table, on one line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.files import write_text

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
BINS = 40
WIDTH = 250  # characters of a row that stays on one line
DIGITS = 7  # significant ones of a written number: what is quoted is a share above 1, such as 1.003375


def summarize(samples: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Number, mean, quantiles and histogram of samples, in the samples' unit.

    Args:
        samples: (n,), n >= 1.

    Returns:
        `count`, `mean`, `min`, `max`; `quantiles`, named by their share, interpolated linearly; `histogram`: the counts of
        `BINS` bins of one width between `from` (the minimum) and `to` (the 0.99 quantile), and the count `above`.
    """
    values = np.asarray(samples, np.float64)
    top = float(np.quantile(values, 0.99))
    inside = values[values <= top]
    counts, edges = np.histogram(inside, BINS, (float(values.min()), top))
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "min": float(values.min()),
        "max": float(values.max()),
        "quantiles": {f"{q:g}": float(np.quantile(values, q)) for q in QUANTILES},
        "histogram": {
            "from": float(edges[0]),
            "to": float(edges[-1]),
            "counts": counts.tolist(),
            "above": len(values) - len(inside),
        },
    }


def rounded(content: Any) -> Any:
    """The same JSON-able content with its floats to `DIGITS` significant digits."""
    if isinstance(content, float):
        return float(f"{content:.{DIGITS}g}")
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    return [rounded(value) for value in content] if isinstance(content, (list, tuple)) else content


def write_rows(path: Path, content: Any) -> None:
    """Write JSON, atomically: indented by one space a level, but each list and dictionary that fits on one line on one line."""
    write_text(path, _lines(rounded(content), 0) + "\n")


def _lines(content: Any, level: int) -> str:
    flat = json.dumps(content, ensure_ascii=False)
    if not isinstance(content, (dict, list)) or not content or len(flat) <= WIDTH:
        return flat
    if isinstance(content, dict):
        parts = [f"{json.dumps(k, ensure_ascii=False)}: {_lines(v, level + 1)}" for k, v in content.items()]
    else:
        parts = [_lines(value, level + 1) for value in content]
    opening, closing = "{}" if isinstance(content, dict) else "[]"
    indent = " " * (level + 1)
    return opening + "\n" + ",\n".join(indent + part for part in parts) + "\n" + " " * level + closing
