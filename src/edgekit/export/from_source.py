"""Export what an importer found: the same bundle whoever asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.abstention import FALSE_ABSTAIN, Rule
from edgekit.bundle import Bundle
from edgekit.export.importers.source import ModelSource
from edgekit.export.pipeline import ConfidenceRequest, export_classifier


def export_source(
    source: ModelSource,
    *,
    output: Path | None = None,
    rule: Rule | None = "distance",
    false_abstain: float = FALSE_ABSTAIN,
    **options: Any,
) -> Bundle:
    """Convert, quantize, verify and bundle a model with its classes, images and provenance.

    Args:
        source: the model with everything that its export needs.
        output: folder of the bundle; None: the source's.
        rule: the score by which an image is answered with unknown; None: no image is, and the probabilities are not calibrated.
        false_abstain: the share of known images that may be called unknown.
        options: further arguments of `export_classifier`, such as targets and precisions.

    Raises:
        ExportError, RuntimeMissing: as `export_classifier`.
    """
    confidence = None if rule is None else ConfidenceRequest(source.held_out, rule, false_abstain)
    return export_classifier(
        source.model,
        classes=source.classes,
        preprocessing=source.preprocessing,
        calibration=source.calibration,
        evaluation=source.evaluation,
        output=source.output if output is None else output,
        name=source.name,
        provenance=source.provenance,
        trained=source.trained,
        confidence=confidence,
        **options,
    )
