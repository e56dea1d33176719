"""Tables of profiles: the time inside the graph by operator, with the longest nodes."""

from __future__ import annotations

from edgekit import targets
from edgekit.report import format as show
from edgekit.report.facts import ReportFacts
from edgekit.report.tables import Column, Table, TableCell
from edgekit.result import Profile

_LONGEST = 5


def profiles(facts: ReportFacts) -> list[Table]:
    """Return one table for each profile of the run's current bundle."""
    return [_table(profile, device) for profile, device in facts.profiles]


def _table(profile: Profile, device: str) -> Table:
    where = f", {device}" if device else ""
    caption = (
        f"{profile.variant}: {show.milliseconds(profile.run_ms)} per run without the profiler, "
        f"{targets.title(profile.runtime)}, batch {profile.batch}{where}"
    )
    columns = [
        Column("Operator", number=False),
        Column("Share", title="of the time of all nodes"),
        Column("Time", title="per run, including the profiler's overhead"),
        Column("Nodes"),
        Column("Longest nodes", number=False, long=True),
    ]
    rows = []
    for operator in profile.by_operator():
        nodes = sorted((n for n in profile.layers if n.operator == operator.operator), key=lambda n: -n.ms)[:_LONGEST]
        longest = "; ".join(f"{node.name} {show.percent(node.share)}" for node in nodes)
        rows.append(
            [
                TableCell(operator.operator, operator.operator.lower()),
                TableCell(show.percent(operator.share), operator.share, bar=min(1.0, operator.share)),
                TableCell(show.milliseconds(operator.ms), operator.ms),
                TableCell(operator.name, int(operator.name)),
                TableCell(longest),
            ]
        )
    return Table(caption, columns, rows, tall=len(rows) > 24)
