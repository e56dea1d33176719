"""The tables that `edgekit bench` prints, for this machine and for remote devices."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.shares import percent
from edgekit.terminal import new_console
from edgekit.text import shortened

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit.bench.rounds import BenchOutcome
    from edgekit.bundle import Bundle, Variant
    from edgekit.result import Latency

_TITLES = {
    "single-stream": "latency of one run",
    "multi-stream": "latency of a query of {query} images",
    "offline": "throughput with every stream busy (img/s), and a batch's time",
    "server": "latency of queries that arrive at random, queueing included,",
}


def print_latencies(bundle: Bundle, outcome: BenchOutcome, left_out: list[tuple[Variant, str]]) -> None:
    """Print a table of the latencies, then warnings, failed and skipped variants, and the folder of the results."""
    from rich.table import Table

    from edgekit.bench.statistics import fp32_of, gain

    console = new_console() if sys.stdout.isatty() else new_console(width=120)
    plain: dict[str, Any] = {"highlight": False, "soft_wrap": True}
    every = [latency for _, latency, _ in outcome.results]
    batches = {latency.batch for latency in every}
    if every:
        first = every[0]
        table = Table(
            title=f"{bundle.manifest.name}: {_TITLES[first.scenario].format(query=first.query or first.batch)} in ms; n: samples; "
            "×fp32: times as fast as the float variant of the same runtime",
            title_justify="left",
            title_style="bold",
        )
        table.box, table.padding = None, (0, 1, 0, 0)  # fits in 80 columns
        table.add_column("variant", overflow="fold")
        table.add_column("prec.", no_wrap=True)
        batch = ["batch"] if len(batches) > 1 else []
        extra = [] if first.scenario == "single-stream" else ["streams"]
        extra += ["query/s"] if first.scenario == "server" else []
        cv = [] if first.scenario == "server" else ["cv"]  # means nothing where queueing is part of the latency
        top = bundle.task.metrics[bundle.task.metric]
        for name in (*batch, *extra, "p50", "p90", "p99", "n", *cv, "img/s", top, "size", "×fp32"):
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
                percent(variant.accuracy.value) if variant.accuracy else "n/a",
                _size(variant),
                _or_na(gain(base, latency) if base else None, "{:.2f}"),
            )
        console.print(table)
        for latency in every:
            if latency.bound_ms:
                console.print(
                    f"{_label(latency, batches)}: p99 stays under {latency.bound_ms:g} ms up to {latency.rate or 0:.4g} queries per "
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


def latency_rows(bundle: Bundle, results: Sequence[tuple[Latency, Path]]) -> list[dict[str, Any]]:
    """Return the latencies as `--json` prints them: without the samples, with the bundle's facts about each variant."""
    from edgekit.bench.statistics import fp32_of, speedup

    every = [latency for latency, _ in results]
    rows: list[dict[str, Any]] = []
    for latency, path in results:
        variant = bundle.variant(latency.variant)
        base = fp32_of(latency, every)
        ratio = speedup(base, latency) if base else None
        rows.append(
            {
                **latency.model_dump(exclude={"samples_ns", "kind", "timeline"}),
                "samples": len(latency.samples_ns),
                bundle.task.metric: variant.accuracy.value if variant.accuracy else None,
                "size_bytes": variant.bytes,
                "speedup_over_fp32": vars(ratio) if ratio else None,
                "file": str(path),
            }
        )
    return rows


def _loadgen(latency: Latency) -> str:
    """Return LoadGen's own figure and verdict."""
    summary = (latency.loadgen or {}).get("summary")
    reported = {str(key): str(value) for key, value in summary.items()} if isinstance(summary, dict) else {}
    verdict = f"result {shortened(reported.get('Result is', 'n/a'))}"
    percentile = "90" if latency.scenario == "single-stream" else "99"
    nanoseconds = _number(reported.get(f"{percentile}.00 percentile latency (ns)"))
    if nanoseconds is not None and latency.scenario != "offline":
        return f"{percentile}th percentile {nanoseconds / 1e6:.3f} ms, {verdict}"
    per_second = _number(reported.get("Samples per second"))
    return verdict if per_second is None else f"{per_second:.0f} img/s, {verdict}"


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _by_warning(every: list[Latency]) -> dict[str, list[Latency]]:
    """Return each warning once, with all measurements that it applies to."""
    grouped: dict[str, list[Latency]] = {}
    for latency in every:
        for warning in latency.warnings:
            grouped.setdefault(warning, []).append(latency)
    return grouped


def _label(latency: Latency, batches: set[int]) -> str:
    return f"{latency.variant} (batch {latency.batch})" if len(batches) > 1 else latency.variant


def _milliseconds(value: float | None) -> str:
    """Format with up to four significant digits, at most three of them after the decimal point."""
    return _or_na(value, "{:.3f}" if value is None or value < 10 else "{:.2f}" if value < 100 else "{:.1f}")


def _or_na(value: float | None, form: str) -> str:
    return "n/a" if value is None else form.format(value)


def _size(variant: Variant) -> str:
    return f"{variant.bytes / 1e6:.2f} MB" if variant.bytes >= 1e6 else f"{variant.bytes / 1e3:.0f} kB"
