"""`edgekit bench`: measure the latency of a bundle's variants on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit import stopping, targets
from edgekit.cli import completers
from edgekit.cli.choices import Number, TableChoice
from edgekit.cli.devices import on_devices
from edgekit.terminal import echo, echo_json

if TYPE_CHECKING:
    from edgekit.bench.rounds import BenchOutcome
    from edgekit.bundle import Bundle, Variant
    from edgekit.result import Scenario


def _providers() -> str:
    """The providers of each runtime, as in `ONNX Runtime: cpu, cuda, …; OpenVINO: cpu, …`."""
    runtimes = {target.runtime.name: target.runtime for target in targets.built_in().values()}.values()
    return "; ".join(f"{runtime.title}: {', '.join(runtime.providers)}" for runtime in runtimes if runtime.providers)


@click.command(name="bench")
@click.argument("bundle", shell_complete=completers.files)
@click.option(
    "--variant", "names", multiple=True, metavar="ID", shell_complete=completers.variants,
    help="Only this variant; may be repeated.",
)  # fmt: skip
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(1),
    help="Images per run; may be repeated.  [default: 1; offline: 1 to 32; multi-stream: the query size]",
)
@click.option(
    "--threads",
    type=click.IntRange(0),
    default=0,
    help="Inference threads, divided among the streams; 0: the runtime decides.",
)
@click.option(
    "--scenario",
    type=click.Choice(["single-stream", "multi-stream", "offline", "server"]),
    default="single-stream",
    show_default=True,
    help="MLPerf scenario: one run after another; queries of several images; maximum throughput; random arrivals.",
)
@click.option(
    "--streams",
    type=click.IntRange(0),
    help="Runs in flight at the same time; 0: the runtime decides.  [default: 1; offline and server: 0]",
)
@click.option("--query", type=click.IntRange(1), default=8, show_default=True, help="Multi-stream: images per query.")
@click.option("--rate", type=Number(0, min_open=True), help="Server: queries per second (Poisson arrivals).")
@click.option(
    "--find-rate",
    "bound_ms",
    type=Number(0, min_open=True),
    metavar="MS",
    help="Server: find the highest rate whose p99 stays under MS.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Server: seed of the random arrivals.")
@click.option(
    "--provider",
    type=TableChoice(targets.every_provider),
    help=f"The device or library that the runtime computes with ({_providers()}).  [default: cpu]",
)
@click.option("--cpus", metavar="LIST", help="Use only these processors, for example 0,1 or 0-3.")
@click.option("--loadgen", is_flag=True, help="Run under MLCommons LoadGen and keep its logs beside the result.")
@click.option("--profile", is_flag=True, help="Show the time of every layer instead, from the runtime's profiler.")
@click.option(
    "--seconds",
    type=Number(0, min_open=True),
    help="Minimum measuring time per variant, in seconds.  [default: 10; with --quick: 1]",
)
@click.option(
    "--quick",
    is_flag=True,
    help="A first look: one short round. A percentile that needs more samples than that gives is n/a.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the result files.  [default: RUN/bench, otherwise ./bench-NAME]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@on_devices
def command(
    bundle: str, names: tuple[str, ...], batches: tuple[int, ...], threads: int, scenario: Scenario, streams: int | None,
    query: int, rate: float | None, bound_ms: float | None, seed: int, provider: str | None, cpus: str | None, loadgen: bool,
    profile: bool, seconds: float | None, quick: bool, output: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure the latency of a BUNDLE (a folder or a .zip) on this machine, with every installed runtime.

    Each variant is first compared with the trained model on the golden tensors. Then the variants are measured in turns,
    each turn in a new process, for at least 10 s and 662 runs per variant. Each variant and batch size has its own result
    file, which keeps every raw sample.

    \b
    For example:
      edgekit bench runs/photos/export
      edgekit bench bundle.zip --variant onnx-int8 --batch 1 --batch 8 --threads 1
      edgekit bench runs/photos/export --quick --json
      edgekit bench runs/photos/export --scenario offline --batch 8
      edgekit bench runs/photos/export --scenario server --find-rate 20
      edgekit bench runs/photos/export --profile
      edgekit bench runs/photos/export --device ssh://pi@raspberrypi.local,ssh://nano
    """
    from edgekit.api.benching import workload_of
    from edgekit.bench.bundle_bench import BenchJob, processor_list

    if profile and (scenario != "single-stream" or loadgen):
        raise click.UsageError("--profile cannot be combined with --scenario or --loadgen: leave them out")
    workload = workload_of(
        scenario, streams, query, rate, bound_ms, seed, provider, processor_list(cpus), loadgen, profile=profile
    )
    job = BenchJob.of(
        bundle, workload, names=names, batches=batches, threads=threads, seconds=seconds, quick=quick, output=output
    )
    if profile:
        from edgekit.cli.profiles import profile_variants

        profile_variants(job, as_json)
        return
    outcome = job.measure()
    if as_json:
        _print_json(job.bundle, outcome, job.left_out)
    else:
        from edgekit.cli.bench_table import print_latencies

        print_latencies(job.bundle, outcome, job.left_out)
    if outcome.interrupted:
        echo("interrupted: partial results were saved and marked as interrupted", err=True)
        click.get_current_context().exit(stopping.exit_code())
    job.require_measured(outcome, "measurements", ", see above")


def _print_json(bundle: Bundle, outcome: BenchOutcome, left_out: list[tuple[Variant, str]]) -> None:
    import json

    from edgekit.cli.bench_table import latency_rows

    echo_json(
        json.dumps(
            {
                "bundle": bundle.manifest.name,
                "results": latency_rows(bundle, [(latency, path) for _, latency, path in outcome.results]),
                "failed": [{"variant": name, "reason": str(error)} for name, error in outcome.failed],
                "left_out": [{"variant": variant.id, "reason": reason} for variant, reason in left_out],
            },
            indent=2,
        )
    )
