"""What the runtimes that compute with XNNPACK have in common: their INT8, and a note on what XNNPACK leaves to slower kernels."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle import Variant
from edgekit.quantize.qdq import FULL
from edgekit.quantize.quantizer import QuantizationConfig
from edgekit.quantize.ranges import METHODS
from edgekit.runtimes import open_session
from edgekit.runtimes.session import OUTSIDE, PARTITIONS
from edgekit.targets import title
from edgekit.tasks import Task


class XnnpackInt8:
    """The configurations of an accuracy search for XNNPACK (a part of a `quantize.backend.Backend`)."""

    def groups(self) -> list[list[QuantizationConfig]]:
        """Every method with 8-bit weights: XNNPACK's products saturate on no CPU."""
        return [[QuantizationConfig(FULL, method) for method in METHODS]]

    def last(self, best: QuantizationConfig | None) -> QuantizationConfig | None:
        """No fallback."""
        return None


def with_partitions(variant: Variant, folder: Path, task: Task, *, cast_outside: bool, threads: int = 0) -> Variant:
    """Add a note to a variant that XNNPACK does not run as one part: each border between parts costs time.

    Args:
        variant: of a runtime that is installed.
        folder: of its files.
        task: what it answers.
        cast_outside: whether the cast of the pixels lies outside in every file of this runtime, and is no reason for a note.
        threads: of the session that is asked.
    """
    session = open_session(variant.runtime, folder / variant.files[0].path, threads=threads, task=task)
    parts, outside = session.settings[PARTITIONS], session.settings[OUTSIDE]
    session.close()
    if parts == "1" and (cast_outside or outside == "nothing"):
        return variant
    return variant.noted(
        f"XNNPACK runs it in {parts} parts, and {title(variant.runtime)}'s slower kernels run {outside}"
    )
