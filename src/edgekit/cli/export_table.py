"""What `edgekit export` prints: its variants as a table or as JSON, and what this machine can build."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.cli.alarm_table import print_alarms
from edgekit.cli.confidence_table import print_confidence
from edgekit.shares import hundredths, percent
from edgekit.terminal import echo, echo_json, new_console
from edgekit.text import images_counted

if TYPE_CHECKING:
    from edgekit.bundle import Bundle, Speed, Variant


def print_table(bundle: Bundle, archive: Path | None) -> None:
    """Print the variants of a bundle, their notes (those that several have once), and where the bundle is."""
    from rich.table import Table
    from rich.text import Text

    manifest, console = bundle.manifest, new_console()
    trained = manifest.accuracy
    where = _judged_on(manifest.provenance)
    table = Table(
        title=f"{manifest.name}: trained model {percent(trained.value)} on {trained.samples} test images" if trained
        else f"{manifest.name}: measured on {where}",
        title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("variant", overflow="fold")
    timed = any(v.speed for v in manifest.variants)
    task = bundle.task
    differs = f"max |Δ{task.unit}|"
    for name in ("size", task.metrics[task.metric], "drop", "agrees", differs, *(["× float"] if timed else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    colors = {"verified": "green", "rejected": "red", "unexecuted": "yellow"}
    for v in manifest.variants:
        table.add_row(
            v.id,
            _size(v.bytes),
            percent(v.accuracy.value) if v.accuracy else "n/a",
            f"{'~' if v.drop_is == 'expected' else ''}{hundredths(v.drop, 2, signed=True)}"
            if v.drop is not None
            else "n/a",
            percent(v.agreement) if v.agreement is not None else "n/a",
            f"{v.parity.max_abs_diff:.2g}" if v.parity else "n/a",
            *([_times_float(v.speed) if v.speed else ""] if timed else []),
            Text(v.status, style=colors[v.status]),
        )
    console.print(table)
    console.print(
        f"drop: points of {task.quality}{'' if trained else ' (~: estimated from the model itself, as there are no labels)'}; "
        f"agrees: on {where}; {differs}: on the golden images"
        + (
            "; × float: speed relative to float in the same runtime, a first look (low…high: undecided)"
            if timed
            else ""
        ),
        style="dim",
        highlight=False,
    )
    print_confidence(manifest, console)
    print_alarms(manifest, console)
    for rejected in (False, True):
        style = "red" if rejected else "yellow"
        for ids, note in _shared_notes([v for v in manifest.variants if (v.status == "rejected") == rejected]):
            console.print(f"{', '.join(ids)}: {note}", style=style, highlight=False)
    for v in manifest.variants:
        for line in _board(v):
            console.print(f"{v.id}: {line}", highlight=False)
    for note in manifest.provenance.get("notes", []):
        alarming = "RANDOM" in note or note.startswith("WARNING")
        style = "bold red" if alarming else "yellow" if note.startswith("INT8") else "dim"
        console.print(note, style=style, highlight=False)
    for path in (bundle.path, archive):
        if path is not None:
            console.print(f"bundle: {path}", highlight=False, soft_wrap=True)


def _shared_notes(variants: Sequence[Variant]) -> list[tuple[tuple[str, ...], str]]:
    """Return the notes of variants with the ids that each is about: a sentence that several variants have is there once."""
    ids_of: dict[str, list[str]] = {}
    for variant in variants:
        for sentence in dict.fromkeys(part for part in variant.note.split("; ") if part):
            ids_of.setdefault(sentence, []).append(variant.id)
    sentences_of: dict[tuple[str, ...], list[str]] = {}
    for sentence, ids in ids_of.items():
        sentences_of.setdefault(tuple(ids), []).append(sentence)
    return [(ids, "; ".join(sentences)) for ids, sentences in sentences_of.items()]


def _board(variant: Variant) -> list[str]:
    """What a microcontroller needs for a variant, and what its NPU would do."""
    needs = variant.board
    if needs is None:
        return []
    lines = [
        f"arena {needs.arena_bytes or 0:,} bytes of RAM, model {needs.model_bytes or 0:,} bytes of flash; to register: "
        f"{', '.join(needs.operators)}; micro_main.cc, which proves it on the board, was not compiled here"
    ]
    if (npu := needs.npu) is not None:
        lines.append(
            f"{npu.accelerator}: {npu.npu_share or 0:.0%} of the operators on the NPU, SRAM {npu.sram_bytes or 0:,} bytes, flash "
            f"{npu.flash_bytes or 0:,} bytes, about {npu.estimated_ms or 0:.3g} ms an image (ESTIMATE of {npu.compiler}, not measured); "
            f"{npu.file}, which micro_model.cc holds, was not executed"
        )
    return lines


def _times_float(speed: Speed) -> str:
    """Return the speed relative to float; an interval where that is undecided."""
    if speed.outcome == "undecided" and speed.low and speed.high:
        return f"{speed.low:.2f}…{speed.high:.2f}"
    return f"{speed.ratio:.2f}"


def _judged_on(provenance: dict[str, Any]) -> str:
    """Describe the images that the figures were measured on, and their number."""
    judged = provenance.get("judged_on") or {}
    if not {"images", "are"} <= judged.keys():
        return "its evaluation images"
    return images_counted(judged["images"], judged["are"])


def print_json(bundles: list[tuple[Bundle, Path | None]]) -> None:
    """Print one JSON object, or a list of them if there are several resolutions."""
    import json

    objects = []
    for bundle, archive in bundles:
        content = bundle.manifest.model_dump(
            mode="json", by_alias=True, include={"name", "accuracy", "confidence", "alarm", "variants"}
        )
        notes = bundle.manifest.provenance.get("notes", [])
        where = {"bundle": str(bundle.path), "zip": str(archive) if archive else None}
        objects.append({**where, **content, "notes": notes, "judged_on": bundle.manifest.provenance.get("judged_on")})
    echo_json(json.dumps(objects[0] if len(objects) == 1 else objects, indent=2))


def print_possibilities(as_json: bool) -> None:
    """Print the targets and precisions, and which of them this machine can build and run."""
    import json
    from dataclasses import asdict

    from edgekit.export.listing import possibilities

    rows = possibilities()
    if as_json:
        echo_json(json.dumps([asdict(row) for row in rows], indent=2))
        return
    from rich.table import Table

    console = new_console(highlight=False)
    table = Table("target", "precision", "runtime", "made here", "run here", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        precision = f"{row.precision} *" if row.default else row.precision
        table.add_row(
            row.target, precision, row.runtime, "no" if row.not_built else "yes", "no" if row.not_run else "yes"
        )
    console.print(table)
    for target in dict.fromkeys(row.target for row in rows):
        row = next(row for row in rows if row.target == target)
        console.print(f"{target}: {row.made}", soft_wrap=True)
        for what, why in (("made", row.not_built), ("run", row.not_run)):
            if why:
                console.print(f"  not {what} here: {why}", style="yellow", soft_wrap=True)
    echo("* made by default, without --precision")


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
