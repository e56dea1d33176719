"""Whether the classes survive an augmentation: the same probe, once on plain images and once on views of them.

Pretraining pulls two views of an image together. Where the views no longer show which class the image is of, an encoder can only learn
to ignore what tells the classes apart, and no later number says why. The probe sees features that the encoder did not choose (the
image as 8x8 pixels) beside those of a classifier that was trained with labels.

Crops are looked at apart: contrastive methods need them, and learn from crops of which a single one says little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.data.augment import Augment
from edgekit.data.images import ImageSet, spread_rows
from edgekit.models.classifier import Classifier
from edgekit.recipe import Augmentation, Recipe
from edgekit.train.evaluate.features import labels_of
from edgekit.train.evaluate.probes import linear_probe
from edgekit.train.evaluate.scores import share
from edgekit.train.loop.loader import seed_for

_PIXELS = 8  # side of the image as the probe sees it beside the features
_VIEWS = 4  # of each image
_MOST = 400  # images that the probe learns from, and that it is tried on
_BATCH = 100
_PARTS = ("gray", "jitter", "rotate", "flip", "sobel", "blur", "noise", "cutout")


@dataclass(frozen=True)
class ViewScores:
    """Accuracies of a probe on plain images and on views.

    Args:
        plain: learned and tried on plain images.
        augmented: learned and tried on views; where more than the crops hides the classes, on views without crops.
        chance: of the most frequent class.
        culprit: the part of the augmentation without which most comes back; empty where none was looked for.
        without: the accuracy without it.
    """

    plain: float
    augmented: float
    chance: float
    culprit: str = ""
    without: float = 0.0

    @property
    def kept(self) -> float:
        """Share of what the plain images show beyond chance that the views still show; 1 where the plain ones show nothing."""
        return (self.augmented - self.chance) / (self.plain - self.chance) if self.plain > self.chance else 1.0


def measure_views(
    model: Classifier, labeled: ImageSet, held: ImageSet, recipe: Recipe, device: torch.device, worth_a_search: float
) -> ViewScores:
    """Try the views of `pretrain.augmentation`.

    Args:
        model: trained with labels, on `device`, in evaluation mode.
        labeled: the label budget, which the probe learns from.
        held: images of evaluation preprocessing, with labels, that the probe is tried on.
        recipe: for augmentation, image size and normalization.
        device: where the features are computed.
        worth_a_search: where the views keep less than this share, each part of the augmentation is left out in turn.
    """
    probe = _Probe(model, _spread(labeled), _spread(held), recipe, device)
    config = recipe.pretrain.augmentation.at(recipe.data.image_size)
    truth = labels_of(held).numpy()
    chance = float(np.bincount(truth).max() / len(truth))
    found = ViewScores(probe.accuracy(None), probe.accuracy(config), chance)
    if found.kept >= worth_a_search:
        return found
    uncropped = config.model_copy(update={"crop": 0.0})
    whole = ViewScores(found.plain, probe.accuracy(uncropped), chance)
    if whole.kept >= worth_a_search:
        return replace(found, culprit="crop", without=whole.augmented)
    parts = [part for part in _PARTS if getattr(config, part)]
    without = {part: probe.accuracy(uncropped.model_copy(update={part: 0.0})) for part in parts}
    best = max(without, key=lambda part: without[part], default="")
    return replace(whole, culprit=best, without=without.get(best, 0.0))


class _Probe:
    def __init__(
        self, model: Classifier, known: ImageSet, tried: ImageSet, recipe: Recipe, device: torch.device
    ) -> None:
        self.model, self.recipe, self.device = model, recipe, device
        self.known, self.tried = known, tried

    def accuracy(self, config: Augmentation | None) -> float:
        """Of the probe on views, or on plain images."""
        (known, labels), (queries, truth) = self._features(self.known, config), self._features(self.tried, config)
        return share(linear_probe(known, labels, queries), truth)

    def _features(self, images: ImageSet, config: Augmentation | None) -> tuple[Tensor, Tensor]:
        """Features (views * n, d) of the images and their labels, on the CPU; seeded, so that a part left out is the only change."""
        data = self.recipe.data
        plain = Augmentation(crop=0.0, flip=0.0, jitter=0.0, gray=0.0, blur=0.0)
        augment = Augment(config or plain, data.image_size, data.mean, data.std)
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
    """At most `_MOST` images, from all over the set."""
    return images.subset(spread_rows(len(images), _MOST))
