"""An ablation as one HTML page: heat maps or lines, the table, and how it was done."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import __version__, tasks
from edgekit.files import write_text
from edgekit.intervals import unpaired, wilson
from edgekit.report import format as show
from edgekit.report.figures import Key, ReportFigure
from edgekit.report.grids import GridLine, Heat, heat, lines
from edgekit.report.page import environment, require_jinja2, resource, script_hash
from edgekit.report.tables import MODELS, Column, Table, metric_title
from edgekit.report.tables import TableCell as Entry
from edgekit.result import Ablation, AblationCell, Result

_ORDER = [("student", "top1"), ("teacher", "top1"), ("supervised", "top1"), ("encoder", "linear"), ("encoder", "knn")]
_NAMED = 3  # cells in one sentence


@dataclass(frozen=True)
class Titled:
    """A figure with its heading."""

    title: str
    note: str
    figure: ReportFigure


def write_ablation(result: Result, path: Path) -> None:
    """Write an ablation's page.

    Args:
        result: whose measurement is an `Ablation`.
        path: the HTML file.

    Raises:
        RuntimeMissing: the extra [report] is not installed.
        EdgekitError: the file cannot be written.
    """
    require_jinja2()
    ablation = result.measurement
    assert isinstance(ablation, Ablation)
    script = resource("script.js").strip()
    page = (
        environment()
        .get_template("ablation.html")
        .render(
            ablation=ablation,
            result=result,
            show=show,
            lead=lead(ablation),
            figures=figures(ablation),
            table=table(ablation),
            protocols=protocols(ablation),
            failed=[(named(ablation, cell), cell.error) for cell in ablation.cells if cell.error],
            style=resource("style.css"),
            script=script,
            script_hash=script_hash(script),
            version=__version__,
        )
    )
    write_text(path, f"{page.strip()}\n")


def metrics(ablation: Ablation) -> list[tuple[str, str]]:
    """(model, metric), what counts most first."""
    return [pair for pair in _ORDER if pair in ablation.metrics()]


def metric_name(model: str, metric: str) -> str:
    """As the report calls it."""
    return metric_title(tasks.find(tasks.DEFAULT), metric) if model == "encoder" else MODELS[model]


def named(ablation: Ablation, cell: AblationCell) -> str:
    """A cell in words: `crop, then color`, or `temperature 0.1, batch_size 64`."""
    if ablation.subject == "augmentations":
        first, second = cell.values
        return first if first == second else f"{first}, then {second}"
    return ", ".join(
        f"{axis.name.rpartition('.')[2]} {value}" for axis, value in zip(ablation.axes, cell.values, strict=True)
    )


def best(ablation: Ablation) -> tuple[AblationCell, float] | None:
    """The cell with the highest value of the metric that counts most."""
    for pair in metrics(ablation):
        scored = [(cell, value) for cell in ablation.cells if (value := cell.value(*pair)) is not None]
        return max(scored, key=lambda both: both[1])
    return None


def ties(ablation: Ablation) -> list[AblationCell]:
    """The other cells that are not shown to be worse than the best: 0 is inside the interval of the difference.

    The interval is that of two independent samples: wider than needed, as all cells are scored on the same images.
    """
    found = best(ablation)
    if found is None:
        return []
    top, pair = found[0], metrics(ablation)[0]
    tied = []
    for cell in ablation.cells:
        value = cell.value(*pair)
        if cell is top or value is None:
            continue
        low, _ = unpaired(found[1], value, (_samples(top, pair), _samples(cell, pair)))
        if low <= 0:
            tied.append(cell)
    return tied


def verdict(ablation: Ablation) -> str:
    """The best cell, and how many others are not shown to be worse: one sentence without a full stop; empty with no cell done."""
    found = best(ablation)
    if found is None:
        return ""
    tied = ties(ablation)
    if not tied:
        return named(ablation, found[0])
    rest = f" and {len(tied) - _NAMED} more" if len(tied) > _NAMED else ""
    others = "; ".join(named(ablation, cell) for cell in tied[:_NAMED])
    return f"{named(ablation, found[0])}; no difference shown to {others}{rest}"


def _samples(cell: AblationCell, pair: tuple[str, str]) -> int:
    return next(s.samples for s in cell.scores if (s.model, s.metric) == pair)


def lead(ablation: Ablation) -> str:
    """The page's first sentence."""
    found = best(ablation)
    if found is None:
        return "No cell is done yet."
    cell, value = found
    name, tied = metric_name(*metrics(ablation)[0]), len(ties(ablation))
    text = f"Best with {named(ablation, cell)}: {name[0].lower() + name[1:]} {show.percent(value)}"
    return f"{text}; no difference shown to {tied} of {len(ablation.cells) - 1} others" if tied else text


def protocols(ablation: Ablation) -> list[tuple[str, str]]:
    """Each metric with how it was measured and how far a number of this many images can be trusted."""
    told = []
    for model, metric in metrics(ablation):
        scores = [s for c in ablation.cells for s in c.scores if (s.model, s.metric) == (model, metric)]
        half = max((high - low) / 2 for low, high in (wilson(s.value, s.samples) for s in scores))
        how = "; or: ".join(dict.fromkeys(s.protocol for s in scores))
        sizes = ", ".join(dict.fromkeys(show.count(s.samples) for s in scores))
        told.append(
            (
                metric_name(model, metric),
                f"{how}; {sizes} test images, 95 % interval up to ±{show.hundredths(half)} points",
            )
        )
    return told


def table(ablation: Ablation) -> Table:
    """A row for each cell, the failed ones included."""
    pairs = metrics(ablation)
    keys = [axis.name.rpartition(".")[2] for axis in ablation.axes]
    columns = [Column(name, number=False) for name in keys]
    columns += [Column(metric_name(*pair)) for pair in pairs]
    columns.append(Column("time", title="of the cell's stages, copied ones included"))
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


def figures(ablation: Ablation) -> list[Titled]:
    """Lines where one key is changed, else heat maps of the last two, one for each metric and each value of the others."""
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
        grid = Heat(
            rows.values, columns.values, "first" if augmentations else rows.name, "then" if augmentations else columns.name,
            values, average=augmentations,
        )  # fmt: skip
        note = f"{show.percent(min(known))} to {show.percent(max(known))}; the stronger the color, the better"
        at = ", ".join(f"{axis.name} {value}" for axis, value in zip(others, fixed, strict=True))
        drawn.append(Titled(metric_name(*pair) + (f" at {at}" if at else ""), note, ReportFigure(heat(grid), [])))
    return drawn


def _value(ablation: Ablation, values: Sequence[str], pair: tuple[str, str]) -> float | None:
    cell = ablation.cell(*values)
    return cell.value(*pair) if cell else None


def _lines(ablation: Ablation, pairs: Sequence[tuple[str, str]]) -> Titled:
    (axis,) = ablation.axes
    done = [value for value in axis.values if ablation.cell(value)]
    series = [
        GridLine(metric_name(*pair), i + 1, [_value(ablation, [value], pair) for value in done])
        for i, pair in enumerate(pairs)
    ]
    keys = [Key(line.label, f"s{line.series}") for line in series]
    return Titled("Test accuracy", "one training a value", ReportFigure(lines(done, axis.name, series), keys))
