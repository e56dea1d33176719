"""`edgekit bench --profile`: print the time of each layer and operator."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit import stopping
from edgekit.shares import percent
from edgekit.terminal import echo, echo_json, new_console
from edgekit.text import shortened

if TYPE_CHECKING:
    from edgekit.bench.bundle_bench import BenchJob
    from edgekit.bundle import Bundle, Variant
    from edgekit.errors import EdgekitError
    from edgekit.result import LayerTime, Profile

_SHOWN = 12


def profile_variants(job: BenchJob, as_json: bool) -> None:
    """Profile each variant, write a result file for each, and print them.

    Raises:
        EdgekitError: no variant could be profiled.
        GateFailed: some variants could not be profiled.
    """
    outcome = job.profile()
    if as_json:
        _print_json(job.bundle, outcome.results, outcome.failed, job.left_out)
    else:
        print_profiles(outcome.results, outcome.failed, job.left_out)
    if outcome.interrupted:
        echo("interrupted: the profiles so far were saved", err=True)
        click.get_current_context().exit(stopping.exit_code())
    job.require_measured(outcome, "profiles", ", see above")


def print_profiles(
    done: Sequence[tuple[Profile, Path]],
    failed: Sequence[tuple[str, EdgekitError]],
    left_out: Sequence[tuple[Variant, str]],
) -> None:
    """Print the time by operator and by layer of each profile; then the failed and the skipped variants."""
    for profile, _ in done:
        per_run = f"{profile.layers_ms:.3f} ms in {len(profile.layers)} layers, a run without the profiler {profile.run_ms:.3f} ms"
        echo("", f"{profile.variant} (batch {profile.batch}): {per_run}")
        _print_rows("operator", [(row.operator, f"×{row.name}", row) for row in profile.by_operator()[:_SHOWN]])
        slowest = sorted(profile.layers, key=lambda layer: -layer.ms)
        _print_rows("layer", [(layer.name, layer.operator, layer) for layer in slowest[:_SHOWN]])
        if len(slowest) > _SHOWN:
            rest = sum(layer.share for layer in slowest[_SHOWN:])
            echo(f"  {len(slowest) - _SHOWN} other layers: {percent(rest)}")
    for name, error in failed:
        new_console().print(f"{name}: failed: {error}", style="red", soft_wrap=True, highlight=False)
    for variant, reason in left_out:
        echo(f"{variant.id}: left out: {reason}")
    if done:
        echo(f"results: {done[0][1].parent}")


def _print_rows(title: str, rows: Sequence[tuple[str, str, LayerTime]]) -> None:
    """Print a table: name, kind, milliseconds per run, share, and the share as a bar."""
    from rich.table import Table

    console = new_console() if sys.stdout.isatty() else new_console(width=120)
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column(f"  {title}", overflow="ellipsis", no_wrap=True, max_width=44)
    table.add_column("", no_wrap=True)
    for name in ("ms", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name, kind, row in rows:
        bar = "█" * round(20 * min(1.0, max(0.0, row.share)))
        table.add_row(f"  {shortened(name)}", shortened(kind), f"{row.ms:.4f}", percent(row.share), bar)
    console.print(table, highlight=False)


def _print_json(
    bundle: Bundle,
    done: Sequence[tuple[Profile, Path]],
    failed: Sequence[tuple[str, EdgekitError]],
    left_out: Sequence[tuple[Variant, str]],
) -> None:
    content = {
        "bundle": bundle.manifest.name,
        "results": profile_rows(done),
        "failed": [{"variant": name, "reason": str(error)} for name, error in failed],
        "left_out": [{"variant": variant.id, "reason": reason} for variant, reason in left_out],
    }
    echo_json(json.dumps(content, indent=2))


def profile_rows(done: Sequence[tuple[Profile, Path]]) -> list[dict[str, Any]]:
    """Return the profiles as `--json` prints them."""
    return [
        {
            **profile.model_dump(exclude={"kind"}),
            "by_operator": [row.model_dump() for row in profile.by_operator()],
            "file": str(path),
        }
        for profile, path in done
    ]
