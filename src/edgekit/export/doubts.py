"""What about a trained model's own answers looks wrong, before any conversion: most often its preprocessing."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.export.verify import ReferenceOutputs

MARK = "WARNING: "


def doubts(reference: ReferenceOutputs, classes: Sequence[str]) -> list[str]:
    """One sentence for each; none where all looks well.

    Args:
        reference: the trained model's answers.
        classes: names, in the order of its outputs.
    """
    return [f"{MARK}{doubt}" for doubt in reference.task.doubts(reference.outputs, reference.labels, classes)]
