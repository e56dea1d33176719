"""`edgekit bench`: the latency of a bundle's variants on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.devices import on_devices

if TYPE_CHECKING:
    from edgekit.bench.rounds import Outcome
    from edgekit.bundle import Bundle, Variant
    from edgekit.result import Latency


@click.command(name="bench")
@click.argument("bundle")
@click.option("--variant", "names", multiple=True, metavar="ID", help="Only this variant; may be repeated.")
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(1),
    default=(1,),
    show_default=True,
    help="Images a run; may be repeated.",
)
@click.option(
    "--threads", type=click.IntRange(0), default=0, help="Threads inside an operator; 0 leaves it to the runtime."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="Least time of measuring a variant.  [default: 10, with --quick 1]",
)
@click.option("--quick", is_flag=True, help="A first look: one short round; most percentiles stay n/a.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the result files go.  [default: RUN/bench, else ./bench-NAME]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@on_devices
def command(
    bundle: str, names: tuple[str, ...], batches: tuple[int, ...], threads: int, seconds: float | None, quick: bool,
    output: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure the latency of a BUNDLE (a folder or a .zip) on this machine, with every runtime that is installed.

    Each variant first proves on the golden tensors that it computes what was trained. Then the variants are measured in
    turns, each turn in a fresh process, for at least 10 s and 662 runs a variant. One result file for each variant and batch
    size keeps every raw sample.

    \b
    For example:
      edgekit bench runs/photos/export
      edgekit bench bundle.zip --variant onnx-int8 --batch 1 --batch 8 --threads 1
      edgekit bench runs/photos/export --quick --json
      edgekit bench runs/photos/export --device ssh://pi@raspberrypi.local,ssh://nano
    """
    from edgekit.bench.output import default_output
    from edgekit.bench.rounds import Plan, bench, choose
    from edgekit.bundle import Bundle
    from edgekit.errors import GateFailed
    from edgekit.progress import progress

    opened = Bundle.open(bundle)
    variants, left_out = choose(opened, names)
    if quick:
        plan = Plan.quick(seconds or 1.0)
    else:
        plan = Plan(seconds) if seconds else Plan()
    folder = output or default_output(opened)
    batches = tuple(dict.fromkeys(batches))
    with progress("bench", len(variants) * len(batches) * plan.rounds, unit="rounds") as advance:
        outcome = bench(
            opened, variants, folder, given=bundle, batches=batches, threads=threads, plan=plan, advance=advance
        )
    if as_json:
        _print_json(opened, outcome, left_out)
    else:
        _print_table(opened, outcome, left_out)
    if outcome.interrupted:
        click.echo("interrupted; what was measured until then is marked so in its results", err=True)
        click.get_current_context().exit(130)
    if outcome.failed:
        if not outcome.results:
            raise outcome.failed[0][1]
        raise GateFailed(f"{len(outcome.failed)} of {len(variants) * len(batches)} measurements failed, see above")


def _print_table(bundle: Bundle, outcome: Outcome, left_out: list[tuple[Variant, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from edgekit.bench.statistics import fp32_of, speedup

    console = Console() if sys.stdout.isatty() else Console(width=120)
    plain: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
    every = [latency for _, latency, _ in outcome.results]
    batches = {latency.batch for latency in every}
    if every:
        table = Table(
            title=f"{bundle.manifest.name}: latency of one run in ms; n: samples; ×fp32: times faster than fp32 in the same runtime",
            title_justify="left",
            title_style="bold",
        )
        table.box, table.padding = None, (0, 1, 0, 0)  # fits 80 columns
        table.add_column("variant", overflow="fold")
        table.add_column("prec.", no_wrap=True)
        batch = ["batch"] if len(batches) > 1 else []
        for name in (*batch, "p50", "p90", "p99", "n", "cv", "img/s", "top-1", "size", "×fp32"):
            table.add_column(name, justify="right", no_wrap=True)
        for latency in every:
            variant = bundle.variant(latency.variant)
            base = fp32_of(latency, every)
            ratio = speedup(base, latency) if base else None
            table.add_row(
                variant.id,
                variant.precision,
                *(str(latency.batch) for _ in batch),
                *(_milliseconds(latency.percentiles_ms[name]) for name in ("p50", "p90", "p99")),
                str(len(latency.samples_ns)),
                f"{latency.cv:.1%}",
                f"{latency.throughput:.0f}",
                _or_na(variant.accuracy.top1 if variant.accuracy else None, "{:.1%}"),
                _size(variant),
                _or_na(ratio.median if ratio else None, "{:.2f}"),
            )
        console.print(table)
    for warning, about in _by_warning(every).items():
        where = "all" if len(about) == len(every) > 1 else ", ".join(_label(latency, batches) for latency in about)
        console.print(f"{where}: {warning}", style="yellow", **plain)
    for name, error in outcome.failed:
        console.print(f"{name}: failed: {error}", style="red", **plain)
    for variant, reason in left_out:
        console.print(f"{variant.id}: left out: {reason}", style="dim", **plain)
    if every:
        console.print(f"results: {outcome.results[0][2].parent}", **plain)


def _by_warning(every: list[Latency]) -> dict[str, list[Latency]]:
    """Each warning once, with all measurements that it is about."""
    found: dict[str, list[Latency]] = {}
    for latency in every:
        for warning in latency.warnings:
            found.setdefault(warning, []).append(latency)
    return found


def _label(latency: Latency, batches: set[int]) -> str:
    return f"{latency.variant} (batch {latency.batch})" if len(batches) > 1 else latency.variant


def _print_json(bundle: Bundle, outcome: Outcome, left_out: list[tuple[Variant, str]]) -> None:
    import json

    from edgekit.bench.statistics import fp32_of, speedup

    every = [latency for _, latency, _ in outcome.results]
    rows: list[dict[str, Any]] = []
    for latency, (_, _, path) in zip(every, outcome.results, strict=True):
        variant = bundle.variant(latency.variant)
        base = fp32_of(latency, every)
        ratio = speedup(base, latency) if base else None
        rows.append(
            {
                **latency.model_dump(exclude={"samples_ns", "kind"}),
                "samples": len(latency.samples_ns),
                "top1": variant.accuracy.top1 if variant.accuracy else None,
                "size_bytes": sum(file.bytes for file in variant.files),
                "speedup_over_fp32": vars(ratio) if ratio else None,
                "file": str(path),
            }
        )
    click.echo(
        json.dumps(
            {
                "bundle": bundle.manifest.name,
                "results": rows,
                "failed": [{"variant": name, "reason": str(error)} for name, error in outcome.failed],
                "left_out": [{"variant": variant.id, "reason": reason} for variant, reason in left_out],
            },
            indent=2,
        )
    )


def _milliseconds(value: float | None) -> str:
    """Four significant digits, but never more than three after the point."""
    return _or_na(value, "{:.3f}" if value is None or value < 10 else "{:.2f}" if value < 100 else "{:.1f}")


def _or_na(value: float | None, form: str) -> str:
    return "n/a" if value is None else form.format(value)


def _size(variant: Variant) -> str:
    size = sum(file.bytes for file in variant.files)
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
