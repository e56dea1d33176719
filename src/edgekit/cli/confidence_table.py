"""The table of a bundle's confidence: what the temperature does to the probabilities, and what is answered with unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.shares import percent

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.bundle import Manifest
    from edgekit.confidence import Confidence


def print_confidence(manifest: Manifest, console: Console) -> None:
    """Print the table and what it says; nothing where the bundle has no confidence."""
    from rich.table import Table

    trained = manifest.confidence
    if trained is None or trained.quality is None:
        return
    table = Table("confidence", box=None, padding=(0, 1, 0, 0))
    for name in ("T", "ECE", "NLL", "unknown", "right of the rest"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [("trained model", trained), *((v.id, v.confidence) for v in manifest.variants if v.confidence is not None)]
    for name, confidence in rows:
        table.add_row(name, *_cells(confidence))
    console.print(table)
    low, high = trained.interval
    console.print(
        f"unknown: of {trained.quality.images} {trained.quality.are}, all of known classes, by their {trained.rule}; asked for: "
        f"{percent(trained.false_abstain)}, with {trained.images} {trained.are} truly {percent(low)} to {percent(high)}; ECE and NLL: of the same "
        "images, before → after the temperature T",
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
