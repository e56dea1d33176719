"""Charts of the documentation, drawn from `benchmarks/results/*.json`. SVG whose colors follow the reader's light or dark theme."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from statistics import mean

from tools.site.tables import read

from edgekit.shares import hundredths

_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #3c4043 }
  .axis { stroke: #9aa0a6; stroke-width: 1 }
  .a { fill: #00796b } .b { fill: #90a4ae } .c { fill: #f57c00 }
  @media (prefers-color-scheme: dark) { text { fill: #e0e3e7 } .a { fill: #4db6ac } .b { fill: #78909c } .c { fill: #ffb74d } }
"""
Bar = tuple[str, str, float]  # label, class, share


def files() -> dict[str, str]:
    """Return every chart's SVG by its path in the repository. They are committed, so that GitHub shows them; a test compares."""
    return {
        "docs/assets/gain.svg": bars(
            "Test accuracy with 1, 10 and 50 labels a class: the student, and the same network from scratch", _gain()
        ),
        "docs/assets/methods.svg": bars("kNN accuracy of each pretraining method on digits", _methods()),
        "docs/assets/finetune.svg": bars(
            "CIFAR-10, 1 % of the labels: the frozen encoder's probe, the teacher, the student, from scratch", _stages()
        ),
        "docs/assets/speed.svg": bars(
            "How many times as fast as fp32 each student's INT8 is, one thread", _speed(), unit="×", scale=2.5
        ),
    }


def inline(svg: str) -> str:
    """Return a chart without its style and empty lines, for a page whose style sheet has the colors."""
    return re.sub(r"<style>.*?</style>\n", "", svg, flags=re.DOTALL).strip()


def _gain() -> list[Bar]:
    names = {"mnist": "MNIST", "photographs": "photographs", "digits": "digits", "textures": "textures"}
    rows: list[Bar] = []
    cells = [cell for cell in read("promise")["cells"] if cell["set"] in names and cell["draw"] == 0]
    for cell in sorted(cells, key=lambda cell: ([*names].index(cell["set"]), cell["labels"])):
        label = f"{names[cell['set']]}, {cell['labels']} a class"
        rows += [(label, "a", cell["student"]), ("from scratch", "b", cell["scratch"])]
    return rows


def _methods() -> list[Bar]:
    cells = sorted(read("methods_digits")["cells"], key=lambda cell: -cell["knn"])
    return [(cell["row"], "b" if cell["row"] == "random weights" else "a", cell["knn"]) for cell in cells]


def _stages() -> list[Bar]:
    cells = [cell for cell in read("cifar10")["cells"] if cell["labels"] == 0.01]
    parts = {"linear probe, 5,000 labels": ("b", "linear"), "teacher": ("a", "teacher"), "student": ("a", "student")}
    parts |= {"student, INT8": ("a", "student_int8"), "from scratch": ("c", "supervised")}
    return [(label, kind, mean(cell[key] for cell in cells)) for label, (kind, key) in parts.items()]


def _speed() -> list[Bar]:
    rows = [row for row in read("students")["rows"] if row["variant"].endswith("int8")]
    return [
        (
            f"{row['student'].partition(',')[0]}, {row['variant'].partition('-')[0]}",
            "a",
            row["times_as_fast_as_fp32"]["1"],
        )
        for row in rows
    ]


def bars(title: str, rows: Sequence[Bar], unit: str = "%", scale: float = 1.0) -> str:
    """Return a chart of horizontal bars, 640 wide; a value of `scale` fills the width."""
    step, left, width = 24, 200, 360
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {step * len(rows) + 16}" role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<line class="axis" x1="{left}" y1="4" x2="{left}" y2="{step * len(rows) + 8}"/>',
    ]
    for i, (label, kind, value) in enumerate(rows):
        y = 8 + step * i
        text = f"{hundredths(value)} %" if unit == "%" else f"{value:.2f}{unit}"
        lines.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>')
        lines.append(
            f'<rect class="{kind}" x="{left}" y="{y}" width="{width * value / scale:.1f}" height="17" rx="2"/>'
        )
        lines.append(f'<text x="{left + width * value / scale + 6:.1f}" y="{y + 13}">{text}</text>')
    return "\n".join([*lines, "</svg>", ""])
