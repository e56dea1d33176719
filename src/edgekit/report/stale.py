"""Find parts of a run that do not belong together, because a stage was made again from another recipe or other images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.result import Evaluation
from edgekit.run import StageRecord, scored_digests
from edgekit.stages import STARTS_FROM, TRAINED_BY

_IMAGES = {"pool": "unlabeled images", "labeled": "labels", "probe": "probe images"}
_STAGE_OF = {**TRAINED_BY, "encoder": "pretrain", "detector": "anomaly"}


def stale_stages(records: Mapping[str, StageRecord]) -> dict[str, str]:
    """Return the complete stages that were not made from the run's present images or earlier stages, each with the reason.

    Args:
        records: of the complete stages, in order.
    """
    images = records["data"].image_digests if "data" in records else {}
    found: dict[str, str] = {}
    for stage, record in records.items():
        if stage == "data":
            continue
        others = [
            name
            for key, name in _IMAGES.items()
            if key in images and record.inputs.get(key, images[key]) != images[key]
        ]
        before = STARTS_FROM.get(stage, "")
        started = record.inputs.get("from") if before in records else None
        if others:
            found[stage] = f"the stage {stage} was made from other {others[0]} than those of the stage data"
        elif before in found or (started is not None and started != records[before].weights):
            found[stage] = f"the stage {stage} was made from an earlier {before}"
    return found


def evaluation_is_stale(evaluation: Evaluation, records: Mapping[str, StageRecord]) -> bool:
    """Return whether an evaluation measured other weights or test images than those of the complete stages."""
    now = scored_digests(records)
    return any(now.get(name, digest) != digest for name, digest in evaluation.digests.items())


def bundle_is_stale(
    provenance: Mapping[str, Any], records: Mapping[str, StageRecord], stale: Mapping[str, str]
) -> bool:
    """Return whether a bundle was exported from other weights than those that the run now has, or from a stage that is stale."""
    stage = _STAGE_OF.get(str(provenance.get("model")), "")
    exported = provenance.get("weights_file_sha256")
    return stage in stale or (stage in records and exported is not None and exported != records[stage].weights)
