"""The table of a bundle's confidence: what the temperature does to the probabilities, and what is answered with unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.shares import percent
from edgekit.text import images_counted

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.bundle import Manifest
    from edgekit.confidence import ClassThresholds, Confidence


def print_confidence(manifest: Manifest, console: Console) -> None:
    """Print the table and what it says; nothing where the bundle has no confidence."""
    from rich.table import Table

    from edgekit.confidence import ClassThresholds, Confidence

    trained = manifest.confidence
    if isinstance(trained, ClassThresholds):
        _print_thresholds(manifest, trained, console)
    if not isinstance(trained, Confidence) or trained.quality is None:
        return
    table = Table("confidence", box=None, padding=(0, 1, 0, 0))
    for name in ("T", "ECE", "NLL", "unknown", "right of the rest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("trained model", *_cells(trained))
    for variant in manifest.variants:
        if isinstance(variant.confidence, Confidence):
            table.add_row(variant.id, *_cells(variant.confidence))
    console.print(table)
    low, high = trained.interval
    console.print(
        f"unknown: of {images_counted(trained.quality.images, trained.quality.are)}, all of known classes, by their {trained.rule}; asked for: "
        f"{percent(trained.false_abstain)} (from {images_counted(trained.images, trained.are)}, so 95 % interval {percent(low)} to {percent(high)}); "
        "ECE and NLL: of the same images, before → after the temperature T",
        style="dim",
        highlight=False,
    )


def _print_thresholds(manifest: Manifest, trained: ClassThresholds, console: Console) -> None:
    """Print what the temperature and the thresholds of the classes do."""
    from rich.table import Table

    from edgekit.confidence import ClassThresholds

    if trained.quality is None:
        return
    table = Table("thresholds", box=None, padding=(0, 1, 0, 0))
    for name in ("T", "micro F1", "macro F1", "ECE"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in [("trained model", trained), *((v.id, v.confidence) for v in manifest.variants)]:
        if isinstance(found, ClassThresholds) and (quality := found.quality) is not None:
            pairs = (quality.f1_micro, quality.f1_macro, quality.ece)
            table.add_row(name, f"{found.temperature:.2f}", *(f"{percent(a)} → {percent(b)}" for a, b in pairs))
    console.print(table)
    console.print(
        f"F1 on {images_counted(trained.quality.images, trained.quality.are)}: with 0.5 for every class → with thresholds set on "
        f"{images_counted(trained.images, trained.are)} "
        f"({trained.own} of {len(trained.thresholds)} classes have their own, the others share {trained.shared:.2f}); ECE: class-wise, before → "
        "after T",
        style="dim",
        highlight=False,
    )


def _cells(confidence: Confidence) -> list[str]:
    quality = confidence.quality
    if quality is None:
        return [f"{confidence.temperature:.2f}", *["n/a"] * 4]
    right = quality.answered_accuracy
    return [
        f"{confidence.temperature:.2f}",
        f"{percent(quality.ece[0])} → {percent(quality.ece[1])}",
        f"{quality.nll[0]:.3f} → {quality.nll[1]:.3f}",
        percent(quality.unknown),
        percent(right) if right is not None else "n/a",
    ]
