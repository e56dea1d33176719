"""Bench from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from edgekit.arguments import Count, CountOrZero, Positive, checked, several
from edgekit.bench.bundle_bench import BenchJob, processor_list
from edgekit.bench.profile_all import Profiles
from edgekit.bench.rounds import BenchOutcome
from edgekit.bench.workload import QUERY, Workload
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.result import Result, Scenario
from edgekit.terminal import echo

_HERE = {"bundle", "output", "device", "python", "wheel", "keep"}  # arguments that concern this machine


@checked()
def bench(
    bundle: Bundle | Path | str,
    *,
    variant: str | Sequence[str] = (),
    batch: Count | Sequence[Count] = (),
    threads: CountOrZero = 0,
    scenario: Scenario = "single-stream",
    streams: CountOrZero | None = None,
    query: Count = QUERY,
    rate: float | None = None,
    find_rate: float | None = None,
    seed: CountOrZero = 0,
    provider: Literal["cpu", "cuda", "tensorrt", "openvino", "gpu", "npu"] | None = None,
    cpus: str | Sequence[int] | None = None,
    loadgen: bool = False,
    profile: bool = False,
    seconds: Positive | None = None,
    quick: bool = False,
    output: Path | str | None = None,
    device: str | Sequence[str] = (),
    python: str | None = None,
    wheel: Path | str | None = None,
    keep: bool = False,
) -> list[Result]:
    """Measure the latency of a bundle on this machine or on devices, as `edgekit bench` does with the options of these names.

        edgekit.bench("bundle.zip", quick=True)
        edgekit.bench("bundle.zip", device=["ssh://pi@raspberrypi.local", "ssh://nano"])

    Every variant is measured in fresh processes, so this program disturbs it only if it computes at the same time.

    Args:
        bundle: opened, or the path of a folder or a .zip.
        variant: ids of variants; none: all that were not rejected and can run on this machine.
        batch: images per run, one number or several; none: that of the scenario.
        threads: of the inference; 0 leaves it to the runtime.
        scenario: MLPerf's: single-stream, multi-stream, offline or server.
        streams: number of concurrent runs; None: 1, for offline and server chosen by the runtime.
        query: multi-stream: images per query.
        rate: server: queries per second.
        find_rate: server: find the highest rate with a p99 latency below this, in milliseconds.
        seed: server: seed of the arrival times.
        provider: the device or provider of the runtime; None: the CPU.
        cpus: the processors that may be used, `"0,1"`, `"0-3"` or a list of numbers; None: all.
        loadgen: run under MLCommons LoadGen.
        profile: measure the time of each layer instead.
        seconds: least measuring time per variant; None: 10, with `quick` 1.
        quick: one short round; a percentile that needs more samples than it gives is None.
        output: the folder for the result files; None: RUN/bench, else ./bench-NAME.
        device: bench there instead of here: `ssh://user@host:port`, one or several; each has its own folder in `output`.
        python: of a device: its Python that has the packages; None: a private environment is made.
        wheel: for a device: this wheel of edgekit; None: the edgekit that runs here.
        keep: leave the bench's folder on the device.

    Returns:
        One result for each variant and batch size, of several devices in their order; `machine` is what measured it, and
        `measurement` an `edgekit.result.Latency`, or a `Profile`.

    Raises:
        BundleError: the bundle is missing or damaged, or has no variant to measure.
        RemoteError: `device` is not an address, or the only device cannot be reached.
        GateFailed: some variants or devices failed; the results of the others are written.
        EdgekitError: options are incompatible, or every variant or device failed.
        KeyboardInterrupt: after Ctrl-C; partial results are written and marked as interrupted.
    """
    arguments = locals()
    workload = workload_of(
        scenario, streams, query, rate, find_rate, seed, provider, _processors(cpus), loadgen, profile=profile
    )
    if device:
        words = _words(arguments)
        return _on_devices(bundle, several(device), words, several(variant), loadgen, output, wheel, python, keep)
    if python or wheel or keep:
        raise EdgekitError("--python, --wheel and --keep are about a device", "name one with --device")
    job = BenchJob.of(
        bundle,
        workload,
        names=several(variant),
        batches=(batch,) if isinstance(batch, int) else tuple(batch),
        threads=threads,
        seconds=seconds,
        quick=quick,
        output=Path(output) if output is not None else None,
    )
    outcome: BenchOutcome | Profiles = job.profile() if profile else job.measure()
    if outcome.interrupted:
        raise KeyboardInterrupt(f"interrupted: partial results are in {job.output}")
    reasons = "; ".join(f"{name}: {error}" for name, error in outcome.failed)
    job.require_measured(outcome, "profiles" if profile else "measurements", f": {reasons}")
    if isinstance(outcome, Profiles):
        return [Result.read(path) for _, path in outcome.results]
    return [result for result, _, _ in outcome.results]


def _on_devices(
    bundle: Bundle | Path | str, devices: tuple[str, ...], words: list[str], variants: tuple[str, ...], loadgen: bool,
    output: Path | str | None, wheel: Path | str | None, python: str | None, keep: bool,
) -> list[Result]:  # fmt: skip
    """What the devices measured, in their order. Raises what `bench` does."""
    from edgekit.bench.output import default_output
    from edgekit.bench.remote.address import parse
    from edgekit.bench.remote.fan_out import bench_on

    addresses = parse(devices)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    folder = Path(output) if output is not None else default_output(opened)
    fleet = bench_on(
        addresses,
        opened,
        folder,
        options=words,
        extras=("loadgen",) if loadgen else (),
        variants=variants,
        wheel=Path(wheel) if wheel is not None else None,
        python=python,
        keep=keep,
        say=lambda line: echo(line, err=True),
    )
    for address, measured in fleet.measured.items():
        for note in measured.notes:
            echo(f"{address}: {note}", err=True)
    if fleet.interrupted:
        raise KeyboardInterrupt(f"interrupted: partial results are in {folder}")
    reasons = [f"{address}: {error.at()}" for address, error in fleet.failed.items()]
    for address in fleet.incomplete:
        reasons += [f"{address}: {one.variant}: {one.reason}" for one in fleet.measured[address].brought.failed]
    fleet.require_measured(f": {'; '.join(reasons)}")
    return [result for measured in fleet.measured.values() for result, _ in measured.brought.results]


def _words(given: Mapping[str, Any]) -> list[str]:
    """The arguments that `edgekit bench` gets on a device: those of `bench` that are not at their default."""
    words = []
    for parameter in signature(bench).parameters.values():
        name, value = parameter.name, given[parameter.name]
        if name in _HERE or value == parameter.default:
            continue
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif name == "cpus":
            words += [option, value if isinstance(value, str) else ",".join(map(str, _processors(value)))]
        else:
            values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            words += [word for one in values for word in (option, str(one))]
    return words


def workload_of(
    scenario: Scenario, streams: int | None, query: int, rate: float | None, find_rate: float | None, seed: int, provider: str | None,
    cpus: tuple[int, ...], loadgen: bool, *, profile: bool,
) -> Workload:  # fmt: skip
    """Return the workload for the options of the command.

    Raises:
        EdgekitError: the options are incompatible.
    """
    if profile and (scenario != "single-stream" or loadgen):
        raise EdgekitError("--profile cannot be combined with --scenario or --loadgen", "leave them out")
    if streams is None:
        streams = 0 if scenario in ("offline", "server") else 1
    return Workload(scenario, streams, query, rate, find_rate, seed, provider, cpus, loadgen)


def _processors(cpus: str | Sequence[int] | None) -> tuple[int, ...]:
    return processor_list(cpus) if cpus is None or isinstance(cpus, str) else tuple(sorted(set(cpus)))
