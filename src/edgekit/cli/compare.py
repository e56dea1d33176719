"""`edgekit compare`: compare two measurements, and fail where a condition is not met."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.shares import hundredths, percent
from edgekit.terminal import echo, echo_json, new_console

if TYPE_CHECKING:
    from edgekit.bench.compare import Checked, ComparedPair, Comparison, ComparisonRow

_COLORS = {"pass": "green", "fail": "red", "uncertain": "yellow"}


@click.command(name="compare")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--fail-if", "conditions", multiple=True, metavar="CONDITION",
    help="Fail where this is true, for example 'p90 > +5%', 'accuracy < -0.5pt' or 'p99 > 20ms'; may be repeated.",
)  # fmt: skip
@click.option(
    "--strict", is_flag=True, help="Also fail where a value is beyond its limit but the difference may be chance."
)
@click.option("--markdown", is_flag=True, help="Print Markdown, for example for a pull request.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    before: Path, after: Path, conditions: tuple[str, ...], strict: bool, markdown: bool, as_json: bool
) -> None:  # fmt: skip
    """Compare two result files, folders of them, or bundles: BEFORE and AFTER.

    Changes in latency and accuracy have a 95 % interval (bootstrap over processes and blocks of neighboring samples;
    binomial for accuracy), so that noise does not fail a build: a condition fails only if the whole interval is beyond its
    limit (with --strict: if the value is). The exit code is 1 if a condition fails, 2 if one cannot be decided, for example
    the p99 of too few samples.

    \b
    For example:
      edgekit compare old/bench/onnx-int8-b1.json new/bench/onnx-int8-b1.json
      edgekit compare old/bench new/bench --fail-if 'p90 > +5%' --fail-if 'peak_rss > +10%'
      edgekit compare old/export new/export --fail-if 'accuracy < -0.5pt'
      edgekit compare main.json branch.json --markdown >> $GITHUB_STEP_SUMMARY
    """
    from edgekit.bench.compare import compare
    from edgekit.bench.gate import Gate
    from edgekit.errors import EdgekitError, GateFailed

    if markdown and as_json:
        raise EdgekitError("--markdown and --json cannot be combined", "leave one out")
    compared = compare(before, after, [Gate.parse(text) for text in conditions])
    if as_json:
        _print_json(compared)
    elif markdown:
        _print_markdown(compared)
    else:
        _print_tables(compared)
    wrong = {"fail", "uncertain"} if strict else {"fail"}
    failed = [f"{pair.name}: {_reason(c)}" for pair in compared.pairs for c in pair.checked if c.verdict in wrong]
    if failed:
        raise GateFailed(f"{len(failed)} of the conditions failed: {'; '.join(failed)}")


def _print_tables(compared: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    console = new_console()
    for pair in compared.pairs:
        table = Table(title=pair.name, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        table.add_column("")
        for heading in ("before", "after", "change", "95 % interval"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in pair.rows:
            table.add_row(*_cells(row))
        console.print(table)
        for note in _notes(pair):
            console.print(note, style="yellow", highlight=False)
        for checked in pair.checked:
            verdict = Text(f"{checked.verdict:9}", style=_COLORS[checked.verdict])
            console.print(verdict, _reason(checked), highlight=False)
        console.print()
    for line in _unpaired(compared):
        console.print(line, style="dim", highlight=False)


def _print_markdown(compared: Comparison) -> None:
    for pair in compared.pairs:
        echo(f"### {pair.name}", "", "| | before | after | change | 95 % interval |", "|---|---:|---:|---:|---:|")
        for row in pair.rows:
            echo("| " + " | ".join(_cells(row)) + " |")
        echo()
        for checked in pair.checked:
            mark = {"pass": "✅", "fail": "❌", "uncertain": "⚠️"}[checked.verdict]
            echo(f"- {mark} {_reason(checked)}")
        for note in _notes(pair):
            echo(f"- {note}")
        echo()
    for line in _unpaired(compared):
        echo(line, "")


def _print_json(compared: Comparison) -> None:
    import json
    from dataclasses import asdict

    def pair(p: ComparedPair) -> dict[str, Any]:
        gates = [
            {"condition": c.gate.text, "verdict": c.verdict, "value": c.value, "interval": c.interval}
            for c in p.checked
        ]
        return {
            "name": p.name, "before": p.before.source, "after": p.after.source, "figures": [asdict(row) for row in p.rows],
            "gates": gates, "unlike": p.unlike, "warnings": {"before": p.before.warnings, "after": p.after.warnings},
        }  # fmt: skip

    content = {"pairs": [pair(p) for p in compared.pairs], "missing": compared.missing, "new": compared.new}
    echo_json(json.dumps(content, indent=2))


def _cells(row: ComparisonRow) -> list[str]:
    interval = "" if row.interval is None else f"{_change(row, row.interval[0])} to {_change(row, row.interval[1])}"
    change = _change(row, row.change) if row.change is not None else f"n/a ({row.why})"
    return [row.metric, _value(row, row.before), _value(row, row.after), change, interval]


def _value(row: ComparisonRow, value: float | None) -> str:
    if value is None:
        return "n/a"
    if row.unit == "share":
        return percent(value, 2)
    if row.unit == "bytes":
        return f"{value / 1e6:.2f} MB"
    return f"{value:.4g} {row.unit}"


def _change(row: ComparisonRow, change: float) -> str:
    return f"{hundredths(change, 2, signed=True)} pt" if row.unit == "share" else percent(change, signed=True)


def _reason(checked: Checked) -> str:
    low, high = checked.interval or (None, None)
    interval = (
        "" if low is None or high is None else f", 95 % interval {_against(checked, low)} to {_against(checked, high)}"
    )
    why = "; uncertain, as the interval contains the limit: measure longer"
    text = f"{checked.gate.text}: it is {_against(checked, checked.value)}{interval}"
    return text + (why if checked.verdict == "uncertain" else "")


def _against(checked: Checked, value: float) -> str:
    """Format a value in the unit of the condition's limit."""
    if checked.gate.change == "absolute":
        return f"{value:.4g}"
    return f"{hundredths(value, 2, signed=True)} pt" if checked.gate.change == "points" else percent(value, signed=True)


def _notes(pair: ComparedPair) -> list[str]:
    notes = [f"differs: {text}" for text in pair.unlike]
    for side, measured in (("before", pair.before), ("after", pair.after)):
        notes += [f"{side}: {warning}" for warning in measured.warnings]
    return notes


def _unpaired(compared: Comparison) -> list[str]:
    lines = [f"only before: {', '.join(compared.missing)}"] if compared.missing else []
    return lines + ([f"only after: {', '.join(compared.new)}"] if compared.new else [])
