"""Try how strong the augmentation of pretraining should be: which crops and color changes keep what distinguishes the classes.

Pretraining makes the features of two views of an image similar (SimCLR, Chen et al. 2020, section 3): what changes from view to view, the
encoder ignores. How much may change depends on the images. Where the object fills the image, small crops show only parts that several classes
share; where color distinguishes the classes, strong color changes hide it. So a small network is pretrained for a few steps with each
candidate. A linear classifier on its features, with as few labels as the recipe has, is tested on other labeled images, none of the test set.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from edgekit.data.images import ImageSet, spread_rows
from edgekit.data.splits import Splits, training_preprocessing
from edgekit.data.template import ViewStrength
from edgekit.models.store import load_pretrained
from edgekit.progress import progress, relayed
from edgekit.recipe import SMALL_IMAGE, Architecture, Recipe
from edgekit.recipe.budget import whole_batches
from edgekit.run import Run
from edgekit.sizes import ImageSize
from edgekit.temporary import scratch_folder
from edgekit.train.estimate import measure
from edgekit.train.evaluate.features import apply, device_of
from edgekit.train.evaluate.few_shot import logistic
from edgekit.train.stages.pipeline import train

FEWEST = 100  # labeled images: fewer cannot show a difference
_JUDGES = 1000  # labeled images at most
_TRIED = 3  # candidates
_STEPS = (60, 200)  # of each pretraining, at least and at most
_QUICK = 4  # steps to measure their speed
_DRAWS = 10  # of the labels
_AT_A_TIME = 100  # images to resize at a time: as floats, a thousand images of 224 pixels are 600 MB
_ENCODER = Architecture(name="resnet18", width=0.25, stem="strided")
# Weak augmentation is learned sooner, also where strong augmentation is better in the end: after 100 steps by up to 3 points on CIFAR-10 and
# photographs. So it is taken only if it is better by so many standard errors, and by so much.
_ERRORS, _MARGIN = 2.0, 0.04


@dataclass(frozen=True, eq=False)
class TriedViews:
    """One candidate: its strength, and how often each of the labeled images is classified correctly, float64 (n) from 0 to 1."""

    views: ViewStrength
    right: NDArray[np.float64]

    @property
    def accuracy(self) -> float:
        """The mean."""
        return float(self.right.mean())


def labeled_images(splits: Splits) -> ImageSet | None:
    """Return the images that judge the candidates: of the probe set and the label budget, at most 1,000; None if there are fewer than `FEWEST`,
    or where images have several classes."""
    parts = [part for part in (splits.probe, splits.labeled.center_crop(splits.probe.size)) if len(part)]
    if sum(map(len, parts)) < FEWEST or any(part.labels is None or part.labels.ndim != 1 for part in parts):
        return None
    chosen = [part.subset(spread_rows(len(part), _JUDGES // len(parts))) for part in parts]
    together = ImageSet(
        np.concatenate([np.asarray(part.images) for part in chosen]),
        [name for part in chosen for name in part.names],
        [digest for part in chosen for digest in part.digests],
        np.concatenate([part.labels for part in chosen if part.labels is not None]),
    )
    assert together.labels is not None
    return together if len(np.unique(together.labels)) > 1 else None


def try_views(recipe_with: Callable[[ViewStrength], Recipe], splits: Splits, seconds: float) -> list[TriedViews]:
    """Try the default, mild crops, and weak color changes with the better of these crops; see `chosen_views`.

    Args:
        recipe_with: the recipe with a strength of the views; of its networks and epochs nothing is used.
        splits: its images.
        seconds: that all pretrainings may take together.

    Returns:
        The candidates that were tried; empty if the labeled images are too few, or the time is too short.

    Raises:
        EdgekitError: the pretraining fails.
    """
    judges = labeled_images(splits)
    if judges is None:
        return []
    trial = _Trial(splits, judges)
    steps = trial.affordable_steps(recipe_with(ViewStrength()), seconds / _TRIED)
    if steps < _STEPS[0]:
        return []
    tried = list[TriedViews]()
    with progress("augmentations", _TRIED, unit="tried") as advance:

        def attempt(views: ViewStrength) -> None:
            advance(0, str(views))
            tried.append(TriedViews(views, trial.right(recipe_with(views), steps)))
            advance(1)

        attempt(ViewStrength())
        attempt(ViewStrength(mild_crops=True))
        attempt(replace(chosen_views(tried), weak_colors=True))
    return tried


def chosen_views(tried: list[TriedViews]) -> ViewStrength:
    """Return the best strength; the default where nothing was tried."""
    if not tried:
        return ViewStrength()
    best = tried[0]
    for candidate in tried[1:]:
        if better(candidate.right, best.right):
            best = candidate
    return best.views


def better(candidate: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Return whether a candidate is clearly better on the same images: by two standard errors of the mean difference, and by four points.

    Args:
        candidate, other: how often each image is classified correctly, (n), n >= 2.
    """
    differences = candidate - other
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return float(differences.mean()) > max(_ERRORS * error, _MARGIN)


class _Trial:
    """Pretrains a small network on images of at most `SMALL_IMAGE` pixels."""

    def __init__(self, splits: Splits, judges: ImageSet) -> None:
        size = judges.size
        self.size = size if size.shorter <= SMALL_IMAGE else size.with_shorter(SMALL_IMAGE)
        self.per_class = max(1, len(splits.labeled) // len(splits.classes))
        self.judges = replace(judges, images=_resized(np.asarray(judges.images), self.size))
        few = self.judges.subset(spread_rows(len(judges), 2 * len(splits.classes)))
        self.splits = replace(splits, labeled=few, probe=few, test=few)

    def affordable_steps(self, recipe: Recipe, seconds: float) -> int:
        """Return how many steps take so long, at most those that are wanted."""
        fitting, splits = self._fitting(recipe, _STEPS[1])
        times, _ = measure(fitting, splits, "pretrain", _QUICK)
        return min(_STEPS[1], int(seconds / times["pretrain"].trainings[-1].step_seconds))

    def right(self, recipe: Recipe, steps: int) -> NDArray[np.float64]:
        """Pretrain and return `few_label_accuracies` of the labeled images."""
        fitting, splits = self._fitting(recipe, steps)
        data = fitting.data
        with scratch_folder("views") as folder, relayed(lambda text: None), redirect_stderr(io.StringIO()):
            run = Run(folder / "run")
            train(fitting, run, splits=splits, until="pretrain")
            encoder = load_pretrained(run.stage_path("pretrain"), run.require("pretrain").outputs).encoder
            features = apply(encoder, self.judges.images, data.mean, data.std, device_of(fitting))
        assert self.judges.labels is not None
        return few_label_accuracies(features, self.judges.labels, self.per_class)

    def _fitting(self, recipe: Recipe, steps: int) -> tuple[Recipe, Splits]:
        """Return the recipe of the small network for so many steps, and its images."""
        data = recipe.data.model_copy(update={"image_size": self.size})
        pool = self.splits.pool
        batch = min(recipe.pretrain.batch_size, len(pool))
        rows = np.sort(np.random.default_rng(recipe.seed).permutation(len(pool))[: steps * batch])
        images = _resized(pool.images[rows], training_preprocessing(data).image_size)
        kept = ImageSet(images, [pool.names[i] for i in rows], [pool.digests[i] for i in rows])
        epochs = math.ceil(steps / whole_batches(len(kept), batch))
        pretrain = recipe.pretrain.model_copy(update={"encoder": _ENCODER, "batch_size": batch, "epochs": epochs})
        return recipe.model_copy(update={"pretrain": pretrain, "data": data}), replace(self.splits, pool=kept)


def few_label_accuracies(features: torch.Tensor, labels: NDArray[np.int64], per_class: int) -> NDArray[np.float64]:
    """Return how often each image is classified correctly by a logistic regression on l2-normalized features of a few others, float64 (m).

    In each of ten draws, some images of every class are learned and all others are tested. The m <= n images are those that were tested; which ones,
    depends on the labels alone.

    Args:
        features: (n, d), on the CPU.
        labels: int64 (n), of two classes or more.
        per_class: images of each class to learn, at most half of them.
    """
    right, tested, truth = np.zeros(len(labels)), np.zeros(len(labels)), torch.from_numpy(labels)
    counts = np.bincount(labels)
    for seed in range(_DRAWS):
        order = np.random.default_rng(seed).permutation(len(labels))
        learned = np.zeros(len(labels), dtype=bool)
        for k in np.flatnonzero(counts):
            learned[order[labels[order] == k][: max(1, min(per_class, counts[k] // 2))]] = True
        known, held = torch.from_numpy(learned), torch.from_numpy(~learned)
        predicted = logistic(features[known], truth[known], features[held])
        right[~learned] += (predicted == truth[held]).numpy()
        tested[~learned] += 1
    return right[tested > 0] / tested[tested > 0]


def _resized(images: NDArray[np.uint8], size: ImageSize) -> NDArray[np.uint8]:
    """Return images (n, h, w, 3) at a size, by the mean over areas."""
    if images.shape[1:3] == (size.height, size.width):
        return images
    parts = [
        F.interpolate(torch.from_numpy(part).permute(0, 3, 1, 2).float(), tuple(size), mode="area").round().byte()
        for part in np.array_split(images, math.ceil(len(images) / _AT_A_TIME))
    ]
    return torch.cat(parts).permute(0, 2, 3, 1).contiguous().numpy()
