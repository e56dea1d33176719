"""Warnings about a trained model's own outputs, before any conversion. Most often the preprocessing is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.export.verify import ReferenceOutputs

MARK = "WARNING: "


def doubts(reference: ReferenceOutputs, classes: Sequence[str]) -> list[str]:
    """Return one warning per problem; empty if nothing looks wrong.

    Args:
        reference: the trained model's outputs.
        classes: names, in the order of its outputs.
    """
    return [f"{MARK}{doubt}" for doubt in reference.task.doubts(reference.outputs, reference.labels, classes)]
