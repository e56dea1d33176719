"""Test whether the classes survive an augmentation: compare a linear probe on plain images with one on views.

Pretraining makes the features of two views of an image similar. If views do not show the class of an image, the encoder learns to ignore
what distinguishes the classes, and no other number shows the reason. The features of the probe are the image as 8x8 pixels, which do not
depend on the encoder, and those of a classifier that was trained with labels.

Crops are tested separately: contrastive methods need them, and learn from many crops of which a single one shows little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.data.images import ImageSet, spread_rows
from edgekit.models.classifier import Classifier
from edgekit.recipe import Augmentation, Recipe
from edgekit.train.evaluate.features import labels_of
from edgekit.train.evaluate.probes import linear_probe
from edgekit.train.evaluate.scores import share
from edgekit.train.loop.loader import seed_for
from edgekit.train.stages.views import augment_for

_PIXELS = 8  # side of the reduced image
_VIEWS = 4  # of each image
_MAX_IMAGES = 400  # for training, and for testing
_CLEARLY = (
    2  # factor by which the removal of a part must raise the accuracy above chance, to prefer it to crops as the reason
)
_BATCH = 100
_PARTS = ("gray", "jitter", "rotate", "flip", "sobel", "blur", "noise", "cutout")


@dataclass(frozen=True)
class ViewScores:
    """Accuracies of a linear probe on plain images and on views.

    Args:
        plain: trained and tested on plain images.
        augmented: trained and tested on views; if no single part is the reason, on views without crops.
        chance: accuracy of always predicting the most frequent class.
        culprit: the part of the augmentation whose removal restores most of the accuracy; empty if no part was removed.
        without: the accuracy without that part.
    """

    plain: float
    augmented: float
    chance: float
    culprit: str = ""
    without: float = 0.0

    @property
    def kept(self) -> float:
        """Accuracy above chance on views, divided by that on plain images; 1 if plain images have none."""
        return (self.augmented - self.chance) / (self.plain - self.chance) if self.plain > self.chance else 1.0


def measure_views(
    model: Classifier, labeled: ImageSet, held: ImageSet, recipe: Recipe, device: torch.device, min_kept: float
) -> ViewScores:
    """Test the views of `pretrain.augmentation`.

    Args:
        model: trained with labels, on `device`, in evaluation mode.
        labeled: the label budget, on which the probe is trained.
        held: labeled images with evaluation preprocessing, on which the probe is tested.
        recipe: for augmentation, image size and normalization.
        device: where the features are computed.
        min_kept: if the views keep less than this share (`ViewScores.kept`), each part of the augmentation is removed in turn.
    """
    probe = _Probe(model, _spread(labeled), _spread(held), recipe, device)
    config = recipe.pretrain.augmentation.at(recipe.data.image_size)
    truth = labels_of(held).numpy()
    chance = float(np.bincount(truth).max() / len(truth))
    found = ViewScores(probe.accuracy(None), probe.accuracy(config), chance)
    if found.kept >= min_kept:
        return found
    parts = [part for part in _PARTS if getattr(config, part)]
    best, without = probe.most_harmful(parts, config)
    if replace(found, augmented=without).kept >= max(min_kept, _CLEARLY * found.kept):
        return replace(found, culprit=best, without=without)
    uncropped = config.model_copy(update={"crop": 0.0})
    whole = ViewScores(found.plain, probe.accuracy(uncropped), chance)
    if whole.kept >= min_kept:
        return replace(found, culprit="crop", without=whole.augmented)
    best, without = probe.most_harmful(parts, uncropped)
    return replace(whole, culprit=best, without=without)


class _Probe:
    def __init__(
        self, model: Classifier, known: ImageSet, tested: ImageSet, recipe: Recipe, device: torch.device
    ) -> None:
        self.model, self.recipe, self.device = model, recipe, device
        self.known, self.tested = known, tested

    def accuracy(self, config: Augmentation | None) -> float:
        """Return the accuracy of the probe on views; on plain images if `config` is None."""
        (known, labels), (queries, truth) = self._features(self.known, config), self._features(self.tested, config)
        return share(linear_probe(known, labels, queries), truth)

    def most_harmful(self, parts: Sequence[str], config: Augmentation) -> tuple[str, float]:
        """Return the part of the augmentation whose removal gives the highest accuracy, and that accuracy; ("", 0) without parts."""
        accuracies = {part: self.accuracy(config.model_copy(update={part: 0.0})) for part in parts}
        best = max(accuracies, key=lambda part: accuracies[part], default="")
        return best, accuracies.get(best, 0.0)

    def _features(self, images: ImageSet, config: Augmentation | None) -> tuple[Tensor, Tensor]:
        """Return features (views * n, d) and labels (views * n), on the CPU. All calls use the same seed, to compare augmentations."""
        data = self.recipe.data
        plain = Augmentation(crop=0.0, flip=0.0, jitter=0.0, gray=0.0, blur=0.0)
        augment = augment_for(config or plain, data)
        generator = torch.Generator().manual_seed(seed_for(self.recipe.seed, "advice", "views"))
        views = 1 if config is None else _VIEWS
        features, labels = [], []
        for start in range(0, len(images), _BATCH):
            part = images.subset(range(start, min(len(images), start + _BATCH)))
            seen = augment(torch.tensor(np.asarray(part.images)).to(self.device), generator, views)
            with torch.inference_mode():
                embedded = self.model.embed(seen).float().cpu()
            pixels = F.adaptive_avg_pool2d(seen, _PIXELS).flatten(1).float().cpu()
            features.append(torch.cat([embedded, pixels], dim=1))
            labels.append(labels_of(part).repeat(views))
        return torch.cat(features), torch.cat(labels)


def _spread(images: ImageSet) -> ImageSet:
    """Return at most `_MAX_IMAGES` images, evenly spaced."""
    return images.subset(spread_rows(len(images), _MAX_IMAGES))
