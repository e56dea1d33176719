"""The student's difference to the other models with its uncertainty, and the accuracies by label draw."""

from __future__ import annotations

from edgekit.report import format as show
from edgekit.report.facts import ReportFacts
from edgekit.report.tables import MODELS, Column, Table, TableCell
from edgekit.result import Difference
from edgekit.text import counted

NOT_SHOWN = "no significant difference"


def words(difference: Difference) -> str:
    """Describe the interval: `95 % interval +8.1 to +15.2`, with the label draws and the verdict."""
    low, high = difference.interval
    over = f", mean of {difference.draws} label draws" if difference.draws > 1 else ""
    verdict = "" if difference.shown else f": {NOT_SHOWN}"
    return f"95\u00a0% interval {show.points(low)} to {show.points(high)}{over}{verdict}"


def table(facts: ReportFacts) -> Table | None:
    """Return a table of the student against each other model."""
    if facts.evaluation is None or not facts.evaluation.differences:
        return None
    columns = [
        Column("Student against", number=False),
        Column("Points", title=f"{facts.task.quality} of the student minus that of the other"),
        Column(
            "95 % interval", title="paired bootstrap over the test images and, if there are several, the label draws"
        ),
        Column("McNemar's p", title="exact test; only with one label draw"),
        Column("Verdict", number=False),
        Column("Protocol", number=False, long=True),
    ]
    rows = []
    for d in facts.evaluation.differences:
        name, (low, high) = MODELS.get(d.second, d.second), d.interval
        verdict = NOT_SHOWN if not d.shown else "better" if d.value > 0 else "worse"
        rows.append(
            [
                TableCell(name, name.lower()),
                TableCell(show.points(d.value), d.value),
                TableCell(f"{show.points(low)} – {show.points(high)}", low),
                TableCell(show.NONE if d.p_value is None else show.difference(d.p_value), d.p_value),
                TableCell(verdict, verdict),
                TableCell(f"{d.protocol}; {counted(d.samples, 'image')}", d.protocol.lower()),
            ]
        )
    return Table("The student against the others", columns, rows)


def draws(facts: ReportFacts) -> Table | None:
    """Return a table of accuracies by label draw; None with one draw."""
    if facts.evaluation is None or not facts.evaluation.draws:
        return None
    found = facts.evaluation.draws
    models = list(dict.fromkeys(model for draw in found for model in draw.values))
    columns = [Column("Label draw", number=False), *(Column(MODELS.get(model, model)) for model in models)]
    rows = []
    for draw in found:
        values = [draw.values.get(model) for model in models]
        name = TableCell(f"seed {draw.label_seed}", draw.label_seed, note="" if draw.run == "." else draw.run)
        rows.append([name, *(TableCell(show.percent(value), value) for value in values)])
    return Table(f"Test {facts.task.quality} by draw of the labels", columns, rows)
