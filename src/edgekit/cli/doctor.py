"""`edgekit doctor`: show what this machine can do, give advice, and check which variants of a bundle run on it."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import completers
from edgekit.shares import percent
from edgekit.terminal import echo_json, new_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgekit.bench.doctor import Check, DoctorAdvice, Findings
    from edgekit.bundle import Bundle

_STYLES = {"proved": "green", "left out": "dim", "failed": "red"}


@click.command(name="doctor")
@click.argument("bundle", required=False, shell_complete=completers.files)
@click.option(
    "--variant",
    "names",
    multiple=True,
    metavar="ID",
    shell_complete=completers.variants,
    help="Only this variant; may be repeated.  [default: all]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(bundle: str | None, names: tuple[str, ...], as_json: bool) -> None:
    """Show this machine's processors, runtimes, GPUs and sensors, and what would make it faster or steadier.

    With a BUNDLE (a folder or a .zip): show which of its variants run here, each checked on the golden tensors, and why the
    others do not. The exit code is 1 if a variant that passed verification at export fails it here.

    \b
    For example:
      edgekit doctor
      edgekit doctor runs/photos/export
      edgekit doctor bundle.zip --variant onnx-int8 --json
    """
    if bundle is None:
        if names:
            raise click.UsageError("--variant needs a BUNDLE")
        _machine(as_json)
    else:
        _bundle(bundle, names, as_json)


def _machine(as_json: bool) -> None:
    from edgekit.bench.doctor import advice, examine
    from edgekit.bench.doctor import as_json as plain
    from edgekit.progress import progress

    with progress("doctor", 2, unit="steps") as advance:
        found = examine(advance=advance)
    pieces = advice(found)
    if as_json:
        _echo_json({**plain(found), "advice": [vars(piece) for piece in pieces]})
    else:
        _print_machine(found, pieces)


def _bundle(path: str, names: tuple[str, ...], as_json: bool) -> None:
    from edgekit.bench.doctor import broken, check
    from edgekit.bundle import Bundle
    from edgekit.errors import GateFailed
    from edgekit.machine import emulated
    from edgekit.progress import progress

    opened = Bundle.open(path)
    variants = [opened.variant(name) for name in dict.fromkeys(names)] or opened.manifest.variants
    with progress("doctor", len(variants), unit="variants") as advance:
        checks = check(opened, variants, advance=advance)
    if as_json:
        machine = {"architecture": platform.machine(), "emulated": emulated()}
        _echo_json(
            {
                "bundle": opened.manifest.name,
                "digest": opened.digest,
                **machine,
                "variants": [_plain(c) for c in checks],
            }
        )
    else:
        _print_checks(opened, checks)
    if wrong := broken(checks):
        raise GateFailed(
            f"{', '.join(c.variant.id for c in wrong)}: passed verification at export but fails it on this machine",
            "do not use it here; run `edgekit doctor` without a bundle to check the machine",
        )


def _plain(check: Check) -> dict[str, Any]:
    return {
        "variant": check.variant.id,
        "runtime": check.variant.runtime,
        "runtime_version": check.version or None,
        "precision": check.variant.precision,
        "status": check.variant.status,
        "outcome": check.outcome,
        "reason": check.reason,
        "max_abs_diff": check.proof.max_abs_diff if check.proof else None,
        "agreement": check.proof.agreement if check.proof else None,
        **{"embedding_max_abs_diff": None, "embedding_cosine": None, **(check.proof.figures if check.proof else {})},
    }


def _print_machine(found: Findings, pieces: list[DoctorAdvice]) -> None:
    from edgekit.bench.doctor import sensors

    console = _console()
    _section(console, "Machine", _machine_rows(found))
    rows = []
    for runtime in found.runtimes:
        if runtime.version is None:
            rows.append((runtime.name, f"n/a: {runtime.missing}"))
        else:
            devices = ", ".join(runtime.devices) or "no device found"
            status = runtime.fails or devices
            rows.append(
                (runtime.name, f"{runtime.version}: {status}{f'; {runtime.missing}' if runtime.missing else ''}")
            )
    _section(console, "Runtimes", rows)
    _section(console, "Sensors", [(name, value or f"n/a: {why}") for name, value, why in sensors(found)])
    if pieces:
        advised = [row for p in pieces for row in ((p.about, p.says), ("", f"→ {p.do}"))[: 2 if p.do else 1]]
        _section(console, "Advice", advised, "yellow")
    else:
        console.print("Nothing to advise: measure with `edgekit bench BUNDLE`.")


def _machine_rows(found: Findings) -> list[tuple[str, str]]:
    from edgekit.bench.doctor.hardware import as_list
    from edgekit.machine import emulated

    processors, memory, now = found.processors, found.memory, found.sensors
    cores = f"{processors.cores} cores, " if processors.cores else ""
    busy = None if found.loads.busy is None else round(found.loads.busy, 1)
    rows = [
        (
            "machine",
            f"{processors.name} ({processors.architecture}{', emulated' if emulated() else ''}{', virtual' if processors.virtual else ''})",
        ),
        (
            "processors",
            f"{cores}{_or_na(processors.logical)} threads, {len(processors.usable)} usable"
            f"{f', time for {processors.quota:g}' if processors.quota else ''}",
        ),
        *((f"  {kind}", as_list(numbers)) for kind, numbers in processors.kinds.items()),
        ("instructions", ", ".join(processors.isa) or "n/a: not reported by the system"),
        (
            "memory",
            f"{_gigabytes(memory.total)}, {_gigabytes(memory.available)} available"
            f"{f', limited to {_gigabytes(memory.limit)}' if memory.limit else ''}",
        ),
        *(
            (f"disk, {disk.purpose.split(' ')[0]}", f"{_gigabytes(disk.free)} free in {disk.folder}")
            for disk in found.disks
        ),
    ]
    for gpu in found.gpus:
        capability = f", compute capability {gpu.compute_capability}" if gpu.compute_capability else ""
        driver = f", driver {gpu.driver}" if gpu.driver else ""
        rows.append(("GPU", f"{gpu.name}{f', {_gigabytes(gpu.memory)}' if gpu.memory else ''}{capability}{driver}"))
    if not found.gpus:
        rows.append(("GPU", "n/a: no NVIDIA GPU"))
    if found.jetpack:
        rows.append(("JetPack", f"{_or_na(found.jetpack.version)} (Jetson Linux {found.jetpack.linux})"))
    if found.system_tensorrt:
        rows.append(("TensorRT libraries", found.system_tensorrt))
    rows.append(
        ("load", f"{_or_na(now.load)} over the last minute; other programs keep {_or_na(busy)} processors busy now")
    )
    rows.append(("edgekit", f"{found.edgekit}, Python {found.python}"))
    return rows


def _print_checks(bundle: Bundle, checks: list[Check]) -> None:
    from rich.text import Text

    console = _console()
    task, proofs = bundle.task, [check.proof for check in checks if check.proof]
    vectors = [name for name in sorted(task.directions) if any(f"{name}_cosine" in p.figures for p in proofs)]
    cosines = [f"min cos {'emb.' if name == 'embedding' else name}" for name in vectors]
    agrees, differs = f"{task.decision} agrees", f"max |Δ {task.unit}|"
    table = _table("variant", "status", "here", agrees, differs, *cosines, right=(agrees, differs, *cosines))
    for check in checks:
        proof = check.proof
        cosines_here = [proof.figures.get(f"{name}_cosine") if proof else None for name in vectors]
        table.add_row(
            check.variant.id,
            check.variant.status,
            Text(check.outcome, style=_STYLES[check.outcome]),
            percent(proof.agreement) if proof else "n/a",
            f"{proof.max_abs_diff:.3g}" if proof else "n/a",
            *("n/a" if cosine is None else f"{cosine:.4f}" for cosine in cosines_here),
        )
    console.print(Text.assemble((bundle.manifest.name, "bold"), ": golden tensors on this machine"))
    console.print(table)
    for check in checks:
        if check.reason:
            style = {"failed": "red", "left out": "dim"}.get(check.outcome, "yellow")
            console.print(f"{check.variant.id}: {check.reason}", style=style, highlight=False, soft_wrap=True)


def _section(console: Console, title: str, rows: list[tuple[str, str]], style: str = "cyan") -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value, style="dim" if value.startswith("n/a") else ""))
    console.print(Panel(table, title=title, title_align="left", border_style=style))


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    return table


def _console() -> Console:

    return new_console(highlight=False) if sys.stdout.isatty() else new_console(width=120, highlight=False)


def _echo_json(content: dict[str, Any]) -> None:
    import json

    echo_json(json.dumps(content, indent=2, ensure_ascii=False))


def _gigabytes(size: int | None) -> str:
    return "n/a" if size is None else f"{size / 1e9:.1f} GB"


def _or_na(value: object) -> str:
    return "n/a" if value is None else str(value)
