"""A candidate trained in full, exported, and measured again: in turns with its bundle from before the training."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

import numpy as np

from edgekit.bundle import Bundle
from edgekit.export.from_source import export_source
from edgekit.export.importers.runs import from_run
from edgekit.export.inputs import ExportOptions
from edgekit.result import SearchTrained, TrainedVariant
from edgekit.search.budget import broken
from edgekit.search.candidates import Candidate
from edgekit.search.devices import Device
from edgekit.search.measure import TURNS, MeasuredVariant, Turns, in_turns
from edgekit.search.plan import SearchPlan
from edgekit.search.recipe_text import with_values
from edgekit.search.rounds import Training
from edgekit.train.records.inputs import require_current
from edgekit.train.stages.pipeline import Report, train

_CALIBRATION_IMAGES = 300


def winner_text(plan: SearchPlan, candidate: Candidate) -> str:
    """Return the source recipe with the candidate as its student, comments included."""
    changes = {**plan.overrides, "distill.student": candidate.student()}
    recipe = candidate.in_recipe(plan.recipe)
    if recipe.data != plan.recipe.data:
        changes["data.image_size"] = candidate.image_size.plain
        if recipe.data.resize_to is not None:
            changes["data.resize_to"] = recipe.data.resize_to
    return with_values(plan.text, changes, recipe)


def train_in_full(
    plan: SearchPlan,
    candidate: Candidate,
    training: Training,
    device: Device,
    alone: Callable[[], AbstractContextManager[object]],
    untrained: Bundle,
    on_stage: Callable[[Report], None] = lambda report: None,
) -> SearchTrained:
    """Train, export and measure a candidate; what was complete before is not done again.

    Args:
        plan: of the search.
        candidate: to train.
        training: of the search.
        device: to measure on.
        alone: a context manager in which this process alone measures on the device.
        untrained: the candidate's bundle from before the training.
        on_stage: called after each stage.

    Raises:
        EdgekitError: the training, the export or the measurement failed.
    """
    run = training.full_run(candidate)
    splits = training.splits_of(candidate.image_size)
    began = time.monotonic()
    reuse = [training.teacher_run(candidate.image_size), *training.reuse]
    recipe = candidate.in_recipe(plan.recipe)
    train(recipe, run, reuse=reuse, splits=splits, until="distill", on_stage=on_stage)
    source = from_run(run, "student", _CALIBRATION_IMAGES, require_current)
    bundle = export_source(
        source, targets=plan.targets, precisions=plan.precisions, options=ExportOptions(max_drop=plan.max_drop)
    )
    both = [
        Turns(one, run.path / "turns" / name, device, plan.limits, plan.turn_seconds, plan.threads, everything=True)
        for name, one in (("trained", bundle), ("untrained", untrained))
    ]
    with alone(), device:
        in_turns(both, further=TURNS)
    variants = [_variant(plan, bundle, measured, both) for measured in both[0].result().variants]
    fitting = [v for v in variants if not v.outside]
    best = max(fitting, key=lambda v: (v.accuracy or 0.0, -(v.percentiles_ms.get("p50") or 0.0)), default=None)
    student, teacher = run.require("distill").metrics, run.require("finetune").metrics
    return SearchTrained(
        candidate=candidate.name,
        run=str(run.path.relative_to(training.folder)),
        accuracy=student["test_top1"],
        teacher_accuracy=teacher.get("test_top1"),
        samples=len(splits.test),
        variants=variants,
        variant=best.id if best else None,
        seconds=round(time.monotonic() - began, 1),
    )


def _variant(plan: SearchPlan, bundle: Bundle, measured: MeasuredVariant, both: list[Turns]) -> TrainedVariant:
    variant = bundle.variant(measured.id)
    outside = [] if not measured.error else [f"cannot be measured: {measured.error}"]
    outside += broken(plan.limits, measured.values())
    if variant.status == "rejected":
        outside.append(f"rejected at export: {variant.note}")
    after, before = (np.array(turns.medians(measured.id)) for turns in both)
    pairs = min(len(after), len(before))
    return TrainedVariant(
        id=variant.id,
        precision=variant.precision,
        status=variant.status,
        accuracy=variant.accuracy.value if variant.accuracy else None,
        bytes=variant.bytes,
        percentiles_ms=measured.percentiles_ms,
        energy_mj=measured.energy_mj,
        before_p50_ms=float(median(before)) if len(before) else None,
        ratio=float(np.median(after[:pairs] / before[:pairs])) if pairs else None,
        outside=outside,
    )


def bundle_folder(folder: Path, candidate: Candidate) -> Path:
    """Return the folder of a candidate's bundle with random weights."""
    return folder / "candidates" / candidate.name / "bundle"
