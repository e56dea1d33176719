"""Write a search as one HTML page: accuracy over latency in every round, every candidate and why it was left out, the winner, the cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from edgekit import targets
from edgekit.files import write_text
from edgekit.report import format as show
from edgekit.report.charts import WIDTH, Size, both
from edgekit.report.figures import LegendEntry, ReportFigure
from edgekit.report.labels import place
from edgekit.report.page import filled, require_jinja2
from edgekit.report.svg import PlotFrame, Scale, drawing, element, padded, path
from edgekit.report.tables import Column, Table
from edgekit.report.tables import TableCell as Entry
from edgekit.result import Pruning, Result, Search, SearchCandidate, SearchVariant
from edgekit.text import counted, plural, visible

_LABELS = 14  # names in a chart; further ones are in the tooltips
PHASES = {
    "measure": "exporting and measuring",
    "teacher": "pretraining and fine-tuning the teacher",
    "rounds": "short rounds",
    "full": "full training",
    "pruning": "pruning to the budget",
}


@dataclass(frozen=True)
class SearchPoint:
    """A candidate in a chart: latency in ms, the score of the round as a share, size in bytes; `kept` says whether it went on."""

    name: str
    latency: float
    score: float
    bytes: int
    kept: bool


def write_search(result: Result, path: Path) -> None:
    """Write a search's page.

    Args:
        result: its measurement must be a `Search`.
        path: the HTML file.

    Raises:
        RuntimeMissing: the extra [report] is not installed.
        EdgekitError: the file cannot be written.
    """
    require_jinja2()
    found = result.measurement
    assert isinstance(found, Search)
    page = filled(
        "search.html",
        search=found,
        result=result,
        show=show,
        lead=lead(found),
        figures=figures(found),
        table=table(found),
        full=full_table(found),
        pruned=pruning_table(found.pruning),
        costs=costs(found),
        protocol=protocol(found),
    )
    write_text(path, visible(page, keep="\n\t"))


def lead(found: Search) -> str:
    """Return the page's first sentence."""
    won = found.won()
    if won is not None:
        best = next(v for v in won.variants if v.id == won.variant)
        p50, accuracy = show.milliseconds(best.percentiles_ms.get("p50")), show.percent(best.accuracy)
        return f"{won.candidate} fits: {accuracy} at {p50} and {show.size(best.bytes)}, as {best.id}"
    if found.nearest:
        return f"Nothing is within the budget; the nearest is {found.nearest}"
    if found.trained:
        return "No candidate is within the budget after its full training"
    return "The search is not complete"


def pareto(points: Sequence[SearchPoint]) -> list[SearchPoint]:
    """Return the front, the fastest first: the points for which no other one is at least as fast, as accurate and as small, and better in one."""

    def dominates(a: SearchPoint, b: SearchPoint) -> bool:
        pairs = [(-a.latency, -b.latency), (a.score, b.score), (-a.bytes, -b.bytes)]
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    front = [p for p in points if not any(dominates(other, p) for other in points)]
    return sorted(front, key=lambda p: (p.latency, -p.score))


def points(found: Search, epochs: int) -> list[SearchPoint]:
    """Return the candidates of a round, at the latency of their fastest variants within the budget."""
    listed = []
    for candidate in found.candidates:
        variant = candidate.fitting()
        rounds = {r.epochs: r for r in candidate.rounds}
        score = rounds[epochs].score if epochs in rounds else None
        if variant is not None and variant.p50 is not None and score is not None:
            kept = any(e > epochs for e in rounds) or candidate.name == found.winner
            listed.append(SearchPoint(candidate.name, variant.p50, score, variant.bytes, kept))
    return listed


def rounds_of(found: Search) -> list[int]:
    """Return the epochs of the rounds that have begun."""
    return sorted({r.epochs for c in found.candidates for r in c.rounds})


def figures(found: Search) -> list[tuple[str, str, ReportFigure]]:
    """Return a chart for each round, with its title and note."""
    drawn = []
    for number, epochs in enumerate(rounds_of(found)):
        marks = points(found, epochs)
        if not marks:
            continue
        keys = [LegendEntry("kept", "s1"), LegendEntry("left out", "s3")]
        note = "dotted: the front of latency and score"
        figure = ReportFigure(_chart(found, marks), keys, note)
        drawn.append(
            (
                f"Round {number + 1}: {epochs} {plural(epochs, 'epoch')}",
                f"{counted(len(marks), 'candidate')}; {found.scored_on}",
                figure,
            )
        )
    return drawn


def _chart(found: Search, marks: Sequence[SearchPoint]) -> Markup:
    text = "; ".join(f"{p.name} {show.percent(p.score)} at {show.milliseconds(p.latency)}" for p in marks)
    return both(lambda size: _drawn(found, marks, size, f"Score over latency: {text}"))


def _drawn(found: Search, marks: Sequence[SearchPoint], size: Size, alt_text: str) -> Markup:
    width, height = WIDTH[size], 400 if size == "wide" else 340
    left, right, top, bottom = 56.0, width - 16.0, 34.0, height - 46.0
    low, high = padded([p.latency for p in marks], 0.12, log=True)
    scores = [p.score for p in marks]
    middle, half = (min(scores) + max(scores)) / 2, max((max(scores) - min(scores)) * 0.62, 0.015)
    frame = PlotFrame(
        Scale(low, high, left, right, log=True), Scale(max(0.0, middle - half), min(1.0, middle + half), bottom, top)
    )
    parts = [frame.axes("median latency on the device, ms (log scale)", "score", y_format=show.percent)]
    front, best = [], -1.0
    for point in sorted(marks, key=lambda p: (p.latency, -p.score)):
        if point.score > best:
            front.append(point)
            best = point.score
    line = [(frame.x(p.latency), frame.y(p.score)) for p in front]
    if len(front) > 1:
        parts.append(path(line, "front"))
    named = {p.name for p in [*[p for p in front if p.name == found.winner], *front][:_LABELS]} | {found.winner}
    spots = [(frame.x(p.latency), frame.y(p.score)) for p in marks]
    names = [p.name if p.name in named else None for p in marks]
    labels = place(names, spots, (left, top - 5, right, bottom), line)
    for point, (x, y), label in zip(marks, spots, labels, strict=True):
        tip = f"{point.name}: {show.percent(point.score)}, {show.milliseconds(point.latency)}, {show.size(point.bytes)}"
        dot = element("circle", class_="dot", cx=x, cy=y, r=8.5 if point.name == found.winner else 6.0)
        parts.append(element("g", element("title", tip), dot, label, class_="s1" if point.kept else "s3"))
    return drawing(width, height, alt_text, *parts, class_=size)


def _shown(candidate: SearchCandidate) -> SearchVariant | None:
    """The variant that stands for a candidate: the fastest within the budget, or else the fastest that was measured."""
    measured = [v for v in candidate.variants if v.p50 is not None]
    return candidate.fitting() or min(measured, key=lambda v: v.p50 or 0.0, default=None)


def table(found: Search) -> Table:
    """Return a table with a row for each candidate, the winner first, those that were trained longest next."""
    rounds = rounds_of(found)
    energy = any(v.energy_mj is not None for c in found.candidates for v in c.variants)
    columns = [
        Column("candidate", number=False),
        Column("variant", number=False),
        Column("p50"),
        Column("p90"),
        Column("size"),
    ]
    columns += [Column("energy", title="per image")] if energy else []
    columns += [
        Column(f"{epochs} ep.", title=f"score after {counted(epochs, 'epoch')}: {found.scored_on}") for epochs in rounds
    ]
    columns.append(Column("left out", number=False, long=True))
    first = points(found, rounds[0]) if rounds else []
    front = {p.name for p in pareto(first)}
    rows = []
    order = sorted(
        found.candidates,
        key=lambda c: (
            c.name != found.winner,
            -len(c.rounds),
            -(c.score or 0.0),
            (v.p50 or 0.0) if (v := _shown(c)) else 1e9,
        ),
    )
    for c in order:
        v = _shown(c)
        note = "on the front" if c.name in front else ""
        row = [Entry(c.name, c.name.lower(), note=note, badge="verified" if c.name == found.winner else "")]
        row.append(Entry(v.id if v else show.NONE, v.id if v else ""))
        for key in ("p50", "p90"):
            value = v.percentiles_ms.get(key) if v else None
            row.append(Entry(show.milliseconds(value), value, title=_turns(v)))
        row.append(Entry(show.size(v.bytes if v else None), v.bytes if v else None))
        if energy:
            joules = v.energy_mj if v else None
            row.append(Entry(show.NONE if joules is None else f"{show.significant(joules)} mJ", joules))
        scores = {r.epochs: r.score for r in c.rounds}
        row += [Entry(show.percent(scores.get(e)), scores.get(e), bar=scores.get(e)) for e in rounds]
        why = "the winner" if c.name == found.winner else c.left_out or c.error
        row.append(Entry(why or "not yet", why.lower()))
        rows.append(row)
    return Table("Every candidate", columns, rows, tall=len(rows) > 16)


def _turns(variant: SearchVariant | None) -> str:
    if variant is None or not variant.turns:
        return ""
    spread = f", spread {show.percent(variant.spread)}" if variant.turns > 1 and variant.spread is not None else ""
    return f"{show.count(variant.samples)} runs in {variant.turns} {plural(variant.turns, 'turn')}{spread}"


def full_table(found: Search) -> Table | None:
    """Return a table of the variants that were trained in full, beside their latency from before."""
    columns = [
        Column("candidate", number=False),
        Column("variant", number=False),
        Column("accuracy", title="top-1 on the test set"),
        Column("size"),
        Column("p50"),
        Column("p50 before", title="of random weights, in the same turns"),
        Column("change", title="median over the turns"),
        Column("outcome", number=False, long=True),
    ]
    rows = []
    for trained in found.trained:
        for v in trained.variants:
            p50, ratio = v.percentiles_ms.get("p50"), v.ratio
            chosen = trained.candidate == found.winner and v.id == trained.variant
            outcome = "chosen" if chosen else "; ".join(v.outside) or "within the budget, too"
            rows.append(
                [
                    Entry(trained.candidate, trained.candidate.lower()),
                    Entry(v.id, v.id, badge="verified" if chosen else ""),
                    Entry(show.percent(v.accuracy), v.accuracy),
                    Entry(show.size(v.bytes), v.bytes),
                    Entry(show.milliseconds(p50), p50),
                    Entry(show.milliseconds(v.before_p50_ms), v.before_p50_ms),
                    Entry(
                        show.NONE if ratio is None else f"{100 * (ratio - 1):+.1f} %".replace("-", show.MINUS), ratio
                    ),
                    Entry(outcome, outcome.lower()),
                ]
            )
    return Table("Trained in full", columns, rows) if rows else None


def pruning_table(pruning: Pruning | None) -> Table | None:
    """Return a table of the steps of pruning, each measured on the device before its distillation; None where nothing was pruned."""
    if pruning is None or not pruning.steps:
        return None
    columns = [
        Column("step"),
        Column("channels removed", title="share of the whole network's"),
        Column("parameters", title="of the encoder"),
        Column("p50", title="of the fastest variant, measured before the distillation"),
        Column("size"),
        Column("epochs", title="of the distillation after it"),
        Column("score", title="after the distillation"),
    ]
    rows = []
    for number, step in enumerate(pruning.steps, start=1):
        usable = [v for v in step.variants if not v.error]
        fastest = min(usable, key=lambda v: v.p50 if v.p50 is not None else float("inf"), default=None)
        p50, size = (fastest.p50, fastest.bytes) if fastest else (None, None)
        rows.append(
            [
                Entry(str(number), number),
                Entry(show.percent(step.removed), step.removed),
                Entry(show.count(step.parameters), step.parameters),
                Entry(show.milliseconds(p50), p50),
                Entry(show.size(size), size),
                Entry(str(step.epochs), step.epochs),
                Entry(show.percent(step.score), step.score),
            ]
        )
    return Table("Pruned step by step", columns, rows)


def costs(found: Search) -> list[tuple[str, str]]:
    """Return the cost by phase, and all together."""
    listed = [(PHASES.get(phase, phase), show.duration(seconds)) for phase, seconds in found.seconds.items() if seconds]
    return [*listed, ("all together", show.duration(sum(found.seconds.values())))]


def protocol(found: Search) -> list[tuple[str, str]]:
    """Return how it was measured, as terms and their explanations."""
    runtimes = dict.fromkeys(targets.title(v.runtime) for c in found.candidates for v in c.variants)
    threads = f"{found.threads} threads" if found.threads else "as many threads as the runtime chooses"
    machine = f", {found.device_machine}" if found.device_machine and found.device_machine not in found.device else ""
    return [
        ("device", f"{found.device}{machine}; {', '.join(runtimes) or 'no runtime yet'}, {threads}, batch 1"),
        (
            "latency",
            "measured with random weights, on which it does not depend; every candidate in turns with the others, each variant of each turn "
            "in a fresh process; percentiles over all samples. A variant whose first turn is far over the budget has no further turns",
        ),
        ("score", f"{found.scored_on}; the test labels are used for the full training alone"),
        (
            "rounds",
            "successive halving: every candidate of a round is distilled from the same teacher for the same number of epochs, from the start; "
            "a score is one training with one seed",
        ),
    ]
