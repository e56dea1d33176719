"""`edgekit bench --device ssh://…`: the options for remote devices, and the printing of their results."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit import stopping
from edgekit.terminal import echo, echo_json, new_console

if TYPE_CHECKING:
    from edgekit.bench.remote.device import DeviceMeasurement
    from edgekit.bench.remote.fan_out import Fleet
    from edgekit.bundle import Bundle
    from edgekit.result import Latency, Profile

# These options concern this machine and are not forwarded to the bench on the device.
_NOT_FORWARDED = {"bundle", "devices", "python", "wheel", "keep", "output", "as_json"}


def on_devices(function: Callable[..., None]) -> Callable[..., None]:
    """Add `--device` and its options to the bench command; with `--device` the bench runs on the device instead of here."""

    @click.option(
        "--device",
        "devices",
        multiple=True,
        metavar="SSH",
        help="Bench on this device instead of here: ssh://user@host:port; several: with commas, or repeated.",
    )
    @click.option(
        "--python",
        metavar="PATH",
        help="With --device: use this Python of the device, which has the packages, and create no environment.",
    )
    @click.option(
        "--wheel",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="With --device: install this wheel of edgekit.  [default: the edgekit that runs here]",
    )
    @click.option("--keep", is_flag=True, help="With --device: keep the bench's folder on the device.")
    @functools.wraps(function)
    def command(devices: tuple[str, ...], python: str | None, wheel: Path | None, keep: bool, **others: Any) -> None:
        if not devices:
            if python or wheel or keep:
                raise click.UsageError("--python, --wheel and --keep need a device: name one with --device")
            function(**others)
            return
        _bench(devices, python, wheel, keep, others)

    return command


def _bench(
    devices: tuple[str, ...], python: str | None, wheel: Path | None, keep: bool, others: dict[str, Any]
) -> None:
    from edgekit.bench.output import default_output
    from edgekit.bench.remote.address import parse
    from edgekit.bench.remote.fan_out import bench_on
    from edgekit.bundle import Bundle

    addresses = parse(devices)
    bundle = Bundle.open(others["bundle"])
    fleet = bench_on(
        addresses,
        bundle,
        others["output"] or default_output(bundle),
        options=_given_options(click.get_current_context()),
        extras=("loadgen",) if others["loadgen"] else (),
        variants=others["names"],
        wheel=wheel,
        python=python,
        keep=keep,
        say=lambda line: echo(line, err=True),
    )
    if others["as_json"]:
        _print_json(bundle, fleet)
    else:
        _print_tables(bundle, fleet)
    errors = list(fleet.failed.values())
    if not fleet.measured and not fleet.interrupted:
        errors = errors[:-1]  # the last one ends the command
    if others["as_json"] or not fleet.measured:  # otherwise they are printed among the tables
        for error in errors:
            echo(f"error: {error}", err=True)
    if fleet.interrupted:
        echo("interrupted: partial results were saved and marked as interrupted", err=True)
        click.get_current_context().exit(stopping.exit_code())
    fleet.require_measured(", see above")


def _given_options(context: click.Context) -> list[str]:
    """Return the options that the user gave, as arguments for `edgekit bench` on the device."""
    from click.core import ParameterSource

    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in _NOT_FORWARDED or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
            continue
        for item in value if parameter.multiple else [value]:
            words += [parameter.opts[0], str(item)]
    return words


def _print_tables(bundle: Bundle, fleet: Fleet) -> None:
    from edgekit.bench.rounds import BenchOutcome
    from edgekit.cli.bench_table import print_latencies
    from edgekit.cli.profiles import print_profiles
    from edgekit.errors import EdgekitError, shortened

    for address, measured in fleet.measured.items():
        brought = measured.brought
        machine = brought.results[0][0].machine
        echo("", f"{address}: {shortened(machine.cpu)}, {shortened(machine.architecture)}, {machine.cores} cores")
        failed = [(reason.variant, EdgekitError(reason.reason)) for reason in brought.failed]
        left_out = [(bundle.variant(reason.variant), reason.reason) for reason in brought.left_out]
        latencies, profiles = _by_kind(measured)
        if profiles:
            print_profiles(profiles, failed, left_out)
        else:
            rows = [(r, latency, path) for (r, _), (latency, path) in zip(brought.results, latencies, strict=True)]
            print_latencies(bundle, BenchOutcome(rows, failed, fleet.interrupted), left_out)
        for note in measured.notes:
            echo(note)
    if fleet.measured:
        for address, error in fleet.failed.items():
            console = new_console() if sys.stdout.isatty() else new_console(width=120)
            reason = str(error.at())
            echo()
            console.print(f"{address}: failed: {reason}", style="red", soft_wrap=True, highlight=False)


def _by_kind(measured: DeviceMeasurement) -> tuple[list[tuple[Latency, Path]], list[tuple[Profile, Path]]]:
    """Return a device's latencies and profiles; one of the two lists is empty."""
    from edgekit.result import Latency, Profile

    parts = [(result.measurement, path) for result, path in measured.brought.results]
    profiles = [(part, path) for part, path in parts if isinstance(part, Profile)]
    return [(part, path) for part, path in parts if isinstance(part, Latency)], profiles


def _print_json(bundle: Bundle, fleet: Fleet) -> None:
    from edgekit.cli.bench_table import latency_rows
    from edgekit.cli.profiles import profile_rows

    devices = []
    for address, measured in fleet.measured.items():
        latencies, profiles = _by_kind(measured)
        devices.append(
            {
                "device": str(address),
                "bundle": bundle.manifest.name,
                "results": latency_rows(bundle, latencies) + profile_rows(profiles),
                "failed": [reason.model_dump() for reason in measured.brought.failed],
                "left_out": [reason.model_dump() for reason in measured.brought.left_out],
                "notes": measured.notes,
            }
        )
    failed = [{"device": str(address), "reason": str(error)} for address, error in fleet.failed.items()]
    echo_json(json.dumps({"bundle": bundle.manifest.name, "devices": devices, "failed": failed}, indent=2))
