"""The table of a bundle's alarms: the score above which an image is anomalous, and what that does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.shares import percent
from edgekit.text import images_counted

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.alarms import Alarm
    from edgekit.bundle import Manifest


def print_alarms(manifest: Manifest, console: Console) -> None:
    """Print the table and what it says; nothing where the bundle has no threshold."""
    from rich.table import Table

    trained = manifest.alarm
    if trained is None:
        return
    table = Table("anomalous", box=None, padding=(0, 1, 0, 0))
    for name in ("score above", "false alarms", "missed", "F1"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [("trained model", trained), *((v.id, v.alarm) for v in manifest.variants if v.alarm is not None)]
    for name, alarm in rows:
        table.add_row(name, *_cells(alarm))
    console.print(table)
    measured = (
        ""
        if trained.quality is None
        else f"; measured on {images_counted(trained.quality.normal + trained.quality.anomalous, trained.quality.are)}"
    )
    console.print(f"{_set_by(trained)}{measured}", style="dim", highlight=False)


def _cells(alarm: Alarm) -> list[str]:
    quality = alarm.quality
    shares = [None, None, None] if quality is None else [quality.false_alarms, quality.missed, quality.f1]
    return [f"{alarm.threshold:.4g}", *("n/a" if share is None else percent(share) for share in shares)]


def _set_by(alarm: Alarm) -> str:
    """What set the threshold, in a sentence."""
    low, high = alarm.interval or (0.0, 1.0)
    if alarm.rule == "labeled":
        return (
            f"set by the best F1 on {images_counted(alarm.images, alarm.are)}, at 95 % between {low:.4g} and {high:.4g}"
        )
    images, asked = images_counted(alarm.images, alarm.are), percent(alarm.false_alarms or 0)
    return f"set by {images} for {asked} false alarms (95 % interval {percent(low)} to {percent(high)})"
