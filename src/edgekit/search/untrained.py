"""A candidate before any training: a network with random weights, exported as a trained one would be.

How long a network runs depends on its layers and their shapes, not on its weights. So the weights are random, and nothing is expected of the
accuracy: INT8 is calibrated once, without the accuracy search.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekit.bundle import Bundle
from edgekit.data.images import spread_rows
from edgekit.data.splits import Splits
from edgekit.export.pipeline import ExportOptions, export_classifier
from edgekit.models.classifier import Classifier
from edgekit.models.pixels import PixelClassifier, normalize
from edgekit.quantize.selection import CalibrationPool
from edgekit.recipe import Recipe
from edgekit.search.candidates import Candidate
from edgekit.sizes import ImageSize

_IMAGES = 48  # of which a third is held back to compare the variants on
_NOTE = "random weights: for its latency and size alone"


def untrained(candidate: Candidate, recipe: Recipe, splits: Splits) -> PixelClassifier:
    """Return a candidate's network with random weights, in evaluation mode.

    Its head is random instead of zero and its BatchNorms have the statistics of the images, so that its outputs differ from image to image
    and INT8 has ranges as usual.

    Args:
        candidate: the network.
        recipe: gives seed and normalization.
        splits: of the candidate's image size.

    Raises:
        RecipeError: the network is unknown or does not fit the image size.
    """
    architecture = candidate.architecture.model_copy(update={"weights": None, "weights_key": None})
    images = torch.from_numpy(_images(splits, candidate.image_size)[:16].copy())
    mean, std = recipe.data.mean, recipe.data.std
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = Classifier.build(architecture, candidate.image_size, splits.classes, [], "candidate")
        nn.init.normal_(model.head.weight, std=0.3)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the plain average
                if not module.weight.any():  # of a residual branch, which would be all zeros
                    nn.init.ones_(module.weight)
        with torch.no_grad():
            model.train()(normalize(images, mean, std))
    return PixelClassifier(model.eval(), mean, std).eval()


def export_untrained(
    candidate: Candidate,
    recipe: Recipe,
    splits: Splits,
    folder: Path,
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
) -> Bundle:
    """Export a candidate untrained; what was exported before is kept.

    Args:
        candidate: the network.
        recipe: gives seed, normalization and preprocessing.
        splits: of the candidate's image size.
        folder: of the bundle.
        targets: of `edgekit.targets`.
        precisions: of the targets; empty: each target's defaults.

    Raises:
        RecipeError, ExportError: the network does not fit the images, or cannot be converted.
        RuntimeMissing: a target's converter is not installed.
    """
    data = candidate.in_recipe(recipe).data
    return export_classifier(
        untrained(candidate, recipe, splits),
        classes=splits.classes,
        preprocessing=data.preprocessing(splits.pixel_range),
        calibration=CalibrationPool.of_images(_images(splits, candidate.image_size)),
        evaluation=None,
        output=folder,
        targets=targets,
        precisions=precisions,
        jobs=1,
        timed=False,
        few_images=True,
        name=candidate.name,
        provenance={"random_weights": True, "notes": [_NOTE]},
        options=ExportOptions(max_drop=100.0, min_agreement=0.0, search_minutes=0.0),
    )


def _images(splits: Splits, size: ImageSize) -> np.ndarray:
    rows = spread_rows(len(splits.pool), min(_IMAGES, len(splits.pool)))
    return np.asarray(splits.pool.subset(rows).center_crop(size).images)


__all__ = ["export_untrained", "untrained"]
