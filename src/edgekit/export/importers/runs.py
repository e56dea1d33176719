"""Importer of a run's student, teacher or supervised baseline, with the recipe's images, classes and normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from edgekit.data.splits import load_splits
from edgekit.export.importers.source import ModelSource
from edgekit.files import digest_of, sha256
from edgekit.models.encoders import Encoder
from edgekit.models.pixels import PixelClassifier
from edgekit.models.store import load_classifier, load_pretrained
from edgekit.quantize.selection import CalibrationPool
from edgekit.run import Run
from edgekit.sizes import ImageSize
from edgekit.stages import STAGES, TRAINED_BY

# model -> the stages before its own stage
_BEFORE: dict[str, list[str]] = {
    "student": ["pretrain", "finetune"], "teacher": ["pretrain"], "supervised": [], "encoder": [],
}  # fmt: skip


def from_run(
    run: Run,
    which: str,
    calibration_images: int,
    require_current: Callable[..., Any],
    image_size: ImageSize | None = None,
) -> ModelSource:
    """Import a model of a run.

    Args:
        run: the run.
        which: a key of `edgekit.stages.TRAINED_BY`, or `encoder`, whose output is the embedding.
        calibration_images: the largest number of calibration images from the pool.
        require_current: `edgekit.train.records.inputs.require_current`, which refuses stages that were not made from the current recipe
            and images. The caller passes it, because this room must not import training.
        image_size: a size of the images other than in training. The side before the crop is scaled with it, and the same images are
            decoded again.

    Raises:
        RunError: the model's stage is incomplete or damaged, or was made from another recipe or other images.
        DataError: the recipe's images cannot be read.
    """
    recipe, stage = run.recipe, TRAINED_BY.get(which, "pretrain")
    record = run.require(stage)
    splits = load_splits(recipe.data, run)
    require_current(["data", *_BEFORE[which], stage], recipe, splits, run)
    preprocessing = recipe.data.preprocessing(splits.pixel_range)
    if image_size is not None and image_size != preprocessing.image_size:
        resize_to = round(preprocessing.resize_to * image_size.shorter / preprocessing.image_size.shorter)
        data = recipe.data.model_copy(update={"image_size": image_size, "resize_to": resize_to})
        splits = load_splits(data, run)
        preprocessing = data.preprocessing(splits.pixel_range)
    assert splits.test.labels is not None
    assert splits.probe.labels is not None
    network: nn.Module
    encoder: Encoder
    if which == "encoder":
        network = encoder = load_pretrained(run.stage_path(stage), record.outputs).encoder
    else:
        network = load_classifier(run.stage_path(stage), record.outputs)
        encoder = network.encoder
    return ModelSource(
        name=recipe.name,
        model=PixelClassifier(network, *(encoder.without_conversion() or (recipe.data.mean, recipe.data.std))),
        classes=splits.classes,
        preprocessing=preprocessing,
        calibration=CalibrationPool(
            total=len(splits.pool),
            read=lambda rows: np.asarray(splits.pool.subset(rows).center_crop(preprocessing.image_size).images),
            digest=splits.pool.digest,
            count=calibration_images,
            classes=len(splits.classes),
        ),
        # Without labels there is none for an encoder; a classifier has always seen some.
        evaluation=(np.asarray(splits.test.images), splits.test.labels) if len(splits.test) else None,
        held_out=(np.asarray(splits.probe.images), splits.probe.labels),
        output=run.path / ("export" if which == "student" else f"export-{which}"),
        provenance=provenance_of(run, which, record.outputs),
    )


def provenance_of(run: Run, which: str, outputs: dict[str, str]) -> dict[str, Any]:
    """Where a model of a run came from, for the bundle; `outputs` are of its stage's record."""
    records = {stage: run.record(stage) for stage in STAGES}
    return {
        "run": str(run.path),
        "model": which,
        "recipe_file_sha256": sha256(run.recipe_path),
        "recipe_sha256": digest_of(run.recipe.model_dump(mode="json", by_alias=True)),
        "weights_file_sha256": outputs.get("model.safetensors"),
        "stages": {stage: record.digest for stage, record in records.items() if record is not None},
    }
