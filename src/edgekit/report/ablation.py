"""Write an ablation as one HTML page: heat maps or lines, the table, and the protocol."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import tasks
from edgekit.files import write_text
from edgekit.intervals import unpaired, wilson
from edgekit.report import format as show
from edgekit.report.figures import LegendEntry, ReportFigure
from edgekit.report.grids import GridLine, HeatMap, heat, lines
from edgekit.report.page import filled, require_jinja2
from edgekit.report.tables import MODELS, Column, Table, metric_title
from edgekit.report.tables import TableCell as Entry
from edgekit.result import Ablation, AblationCell, Result

_ORDER = [("student", "top1"), ("teacher", "top1"), ("supervised", "top1"), ("encoder", "linear"), ("encoder", "knn")]
_NAMED = 3  # cells in one sentence


@dataclass(frozen=True)
class TitledFigure:
    """A figure with its heading."""

    title: str
    note: str
    figure: ReportFigure


def write_ablation(result: Result, path: Path) -> None:
    """Write an ablation's page.

    Args:
        result: its measurement must be an `Ablation`.
        path: the HTML file.

    Raises:
        RuntimeMissing: the extra [report] is not installed.
        EdgekitError: the file cannot be written.
    """
    require_jinja2()
    ablation = result.measurement
    assert isinstance(ablation, Ablation)
    page = filled(
        "ablation.html",
        ablation=ablation,
        result=result,
        show=show,
        lead=lead(ablation),
        figures=figures(ablation),
        table=table(ablation),
        protocols=protocols(ablation),
        failed=[(cell_name(ablation, cell), cell.error) for cell in ablation.cells if cell.error],
    )
    write_text(path, page)


def metrics(ablation: Ablation) -> list[tuple[str, str]]:
    """Return (model, metric) pairs, the most important first."""
    return [pair for pair in _ORDER if pair in ablation.metrics()]


def metric_name(model: str, metric: str) -> str:
    """Return the report's name of a metric."""
    return metric_title(tasks.find(tasks.DEFAULT), metric) if model == "encoder" else MODELS[model]


def cell_name(ablation: Ablation, cell: AblationCell) -> str:
    """Describe a cell: `crop, then color`, or `temperature 0.1, batch_size 64`."""
    if ablation.subject == "augmentations":
        first, second = cell.values
        return first if first == second else f"{first}, then {second}"
    return ", ".join(
        f"{axis.name.rpartition('.')[2]} {value}" for axis, value in zip(ablation.axes, cell.values, strict=True)
    )


def best(ablation: Ablation) -> tuple[AblationCell, float] | None:
    """Return the cell with the highest value of the most important metric."""
    for pair in metrics(ablation):
        scored = [(cell, value) for cell in ablation.cells if (value := cell.value(*pair)) is not None]
        return max(scored, key=lambda both: both[1])
    return None


def ties(ablation: Ablation) -> list[AblationCell]:
    """Return the other cells that are not significantly worse than the best: 0 is inside the interval of the difference.

    The interval is for two independent samples: wider than needed, because all cells are scored on the same images.
    """
    best_cell = best(ablation)
    if best_cell is None:
        return []
    top, pair = best_cell[0], metrics(ablation)[0]
    tied = []
    for cell in ablation.cells:
        value = cell.value(*pair)
        if cell is top or value is None:
            continue
        low, _ = unpaired(best_cell[1], value, (_samples(top, pair), _samples(cell, pair)))
        if low <= 0:
            tied.append(cell)
    return tied


def verdict(ablation: Ablation) -> str:
    """Name the best cell and those not significantly worse, in one sentence without a full stop; empty if no cell is complete."""
    best_cell = best(ablation)
    if best_cell is None:
        return ""
    tied = ties(ablation)
    if not tied:
        return cell_name(ablation, best_cell[0])
    rest = f" and {len(tied) - _NAMED} more" if len(tied) > _NAMED else ""
    others = "; ".join(cell_name(ablation, cell) for cell in tied[:_NAMED])
    return f"{cell_name(ablation, best_cell[0])}; no significant difference to {others}{rest}"


def _samples(cell: AblationCell, pair: tuple[str, str]) -> int:
    return next(s.samples for s in cell.scores if (s.model, s.metric) == pair)


def lead(ablation: Ablation) -> str:
    """Return the page's first sentence."""
    best_cell = best(ablation)
    if best_cell is None:
        return "No cell is complete yet."
    cell, value = best_cell
    name, tied = metric_name(*metrics(ablation)[0]), len(ties(ablation))
    text = f"Best with {cell_name(ablation, cell)}: {name[0].lower() + name[1:]} {show.percent(value)}"
    return f"{text}; no significant difference to {tied} of {len(ablation.cells) - 1} others" if tied else text


def protocols(ablation: Ablation) -> list[tuple[str, str]]:
    """Return each metric with its protocol and the uncertainty from the number of images."""
    described = []
    for model, metric in metrics(ablation):
        scores = [s for c in ablation.cells for s in c.scores if (s.model, s.metric) == (model, metric)]
        half = max((high - low) / 2 for low, high in (wilson(s.value, s.samples) for s in scores))
        how = "; or: ".join(dict.fromkeys(s.protocol for s in scores))
        sizes = ", ".join(dict.fromkeys(show.count(s.samples) for s in scores))
        described.append(
            (
                metric_name(model, metric),
                f"{how}; {sizes} test images, 95 % interval up to ±{show.hundredths(half)} points",
            )
        )
    return described


def table(ablation: Ablation) -> Table:
    """Return a table with a row for each cell, including failed ones."""
    pairs = metrics(ablation)
    keys = [axis.name.rpartition(".")[2] for axis in ablation.axes]
    columns = [Column(name, number=False) for name in keys]
    columns += [Column(metric_name(*pair)) for pair in pairs]
    columns.append(Column("time", title="of the cell's stages, including copied ones"))
    rows = []
    for cell in ablation.cells:
        row = [Entry(value, _sort(value)) for value in cell.values]
        for pair in pairs:
            value = cell.value(*pair)
            row.append(Entry(show.percent(value), value, bar=value))
        row.append(Entry(show.duration(cell.seconds), cell.seconds))
        rows.append(row)
    return Table("Every cell", columns, rows, tall=len(rows) > 16)


def _sort(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value.lower()


def figures(ablation: Ablation) -> list[TitledFigure]:
    """Draw lines if one key changes; otherwise heat maps of the last two keys, for each metric and each value of the other keys."""
    pairs = metrics(ablation)
    if not pairs:
        return []
    if len(ablation.axes) == 1:
        return [_lines(ablation, pairs)]
    *others, rows, columns = ablation.axes
    drawn = []
    for pair, fixed in itertools.product(pairs, itertools.product(*(axis.values for axis in others))):
        values = [[_value(ablation, (*fixed, r, c), pair) for c in columns.values] for r in rows.values]
        known = [v for row in values for v in row if v is not None]
        if not known:
            continue
        augmentations = ablation.subject == "augmentations"
        grid = HeatMap(
            rows.values, columns.values, "first" if augmentations else rows.name, "then" if augmentations else columns.name,
            values, average=augmentations,
        )  # fmt: skip
        note = f"{show.percent(min(known))} to {show.percent(max(known))}; stronger color is better"
        at = ", ".join(f"{axis.name} {value}" for axis, value in zip(others, fixed, strict=True))
        drawn.append(TitledFigure(metric_name(*pair) + (f" at {at}" if at else ""), note, ReportFigure(heat(grid), [])))
    return drawn


def _value(ablation: Ablation, values: Sequence[str], pair: tuple[str, str]) -> float | None:
    cell = ablation.cell(*values)
    return cell.value(*pair) if cell else None


def _lines(ablation: Ablation, pairs: Sequence[tuple[str, str]]) -> TitledFigure:
    (axis,) = ablation.axes
    done = [value for value in axis.values if ablation.cell(value)]
    series = [
        GridLine(metric_name(*pair), i + 1, [_value(ablation, [value], pair) for value in done])
        for i, pair in enumerate(pairs)
    ]
    keys = [LegendEntry(line.label, f"s{line.series}") for line in series]
    return TitledFigure("Test accuracy", "one training per value", ReportFigure(lines(done, axis.name, series), keys))
