"""What `edgekit bench` prints for people, of this machine and of others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from edgekit.shares import percent
from edgekit.terminal import new_console

if TYPE_CHECKING:
    from edgekit.bench.rounds import Outcome
    from edgekit.bundle import Bundle, Variant
    from edgekit.result import Latency

_WHAT = {
    "single-stream": "latency of one run",
    "multi-stream": "latency of a query of {query} images",
    "offline": "throughput with every stream busy (img/s), and a batch's time",
    "server": "latency of queries that arrive at random, queueing included,",
}


def print_latencies(bundle: Bundle, outcome: Outcome, left_out: list[tuple[Variant, str]]) -> None:
    """A table of the latencies, then every warning with what it is about, what failed, what was left out, and where the results are."""
    from rich.table import Table

    from edgekit.bench.statistics import fp32_of, gain

    console = new_console() if sys.stdout.isatty() else new_console(width=120)
    plain: dict[str, Any] = {"highlight": False, "soft_wrap": True}
    every = [latency for _, latency, _ in outcome.results]
    batches = {latency.batch for latency in every}
    if every:
        first = every[0]
        table = Table(
            title=f"{bundle.manifest.name}: {_WHAT[first.scenario].format(query=first.query or first.batch)} in ms; n: samples; "
            "×fp32: times faster than fp32 in the same runtime",
            title_justify="left",
            title_style="bold",
        )
        table.box, table.padding = None, (0, 1, 0, 0)  # fits 80 columns
        table.add_column("variant", overflow="fold")
        table.add_column("prec.", no_wrap=True)
        batch = ["batch"] if len(batches) > 1 else []
        extra = [] if first.scenario == "single-stream" else ["streams"]
        extra += ["query/s"] if first.scenario == "server" else []
        cv = [] if first.scenario == "server" else ["cv"]  # of latencies with a queue it says nothing
        for name in (*batch, *extra, "p50", "p90", "p99", "n", *cv, "img/s", "top-1", "size", "×fp32"):
            table.add_column(name, justify="right", no_wrap=True)
        for latency in every:
            variant = bundle.variant(latency.variant)
            base = fp32_of(latency, every)
            table.add_row(
                variant.id,
                variant.precision,
                *(str(latency.batch) for _ in batch),
                *([str(latency.streams)] if extra else []),
                *([f"{latency.rate:.4g}"] if latency.rate else []),
                *(_milliseconds(latency.percentiles_ms[name]) for name in ("p50", "p90", "p99")),
                str(len(latency.samples_ns)),
                *(percent(latency.cv) for _ in cv),
                f"{latency.throughput:.0f}",
                percent(variant.accuracy.top1) if variant.accuracy else "n/a",
                _size(variant),
                _or_na(gain(base, latency) if base else None, "{:.2f}"),
            )
        console.print(table)
        for latency in every:
            if latency.bound_ms:
                console.print(
                    f"{_label(latency, batches)}: p99 stays under {latency.bound_ms:g} ms up to {latency.rate:.4g} queries a "
                    f"second ({len(latency.probes)} rates tried)",
                    **plain,
                )
            if latency.loadgen:
                console.print(f"{_label(latency, batches)}: LoadGen: {_loadgen(latency)}", **plain)
    for warning, about in _by_warning(every).items():
        where = "all" if len(about) == len(every) > 1 else ", ".join(_label(latency, batches) for latency in about)
        console.print(f"{where}: {warning}", style="yellow", **plain)
    for name, error in outcome.failed:
        console.print(f"{name}: failed: {error}", style="red", **plain)
    for variant, reason in left_out:
        console.print(f"{variant.id}: left out: {reason}", style="dim", **plain)
    if every:
        console.print(f"results: {outcome.results[0][2].parent}", **plain)


def _loadgen(latency: Latency) -> str:
    """LoadGen's own figure and verdict."""
    summary = (latency.loadgen or {}).get("summary", {})
    for key in ("90.00 percentile latency (ns)", "99.00 percentile latency (ns)"):
        if key in summary and latency.scenario != "offline":
            figure = f"{key.split('.')[0]}th percentile {int(summary[key]) / 1e6:.3f} ms, "
            if (key[:2] == "90") == (latency.scenario == "single-stream"):
                return f"{figure}result {summary.get('Result is', 'n/a')}"
    per_second = summary.get("Samples per second")
    return f"{f'{float(per_second):.0f} img/s, ' if per_second else ''}result {summary.get('Result is', 'n/a')}"


def _by_warning(every: list[Latency]) -> dict[str, list[Latency]]:
    """Each warning once, with all measurements that it is about."""
    found: dict[str, list[Latency]] = {}
    for latency in every:
        for warning in latency.warnings:
            found.setdefault(warning, []).append(latency)
    return found


def _label(latency: Latency, batches: set[int]) -> str:
    return f"{latency.variant} (batch {latency.batch})" if len(batches) > 1 else latency.variant


def _milliseconds(value: float | None) -> str:
    """Four significant digits, but never more than three after the point."""
    return _or_na(value, "{:.3f}" if value is None or value < 10 else "{:.2f}" if value < 100 else "{:.1f}")


def _or_na(value: float | None, form: str) -> str:
    return "n/a" if value is None else form.format(value)


def _size(variant: Variant) -> str:
    return f"{variant.bytes / 1e6:.2f} MB" if variant.bytes >= 1e6 else f"{variant.bytes / 1e3:.0f} kB"
