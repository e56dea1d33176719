"""The start and the end of the fine-tuning stage: the classifier that it starts from, and the one that it stores.

It starts from a linear probe on the frozen encoder. It stores the fine-tuned classifier, unless there is evidence that the probe is
better; then it stores the frozen encoder with the probe. If the recipe has a probe set (labeled images outside the label budget), the
evidence is the accuracy of both on it. Without one, it comes from the label budget and the pool: if the probe errs on a share e of the
images (leave-one-out, on the budget) and the two classifiers disagree on a share d of the pool, the fine-tuned one errs on at least
d - e of them; the probe is certainly better if d - e > e.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.data.images import ImageSet, spread_rows
from edgekit.data.splits import Splits
from edgekit.models.classifier import Classifier
from edgekit.models.store import Pretrained
from edgekit.recipe import Recipe
from edgekit.shares import share_of
from edgekit.train.evaluate import apply, labels_of, linear_probe, share
from edgekit.train.objective import objective_of
from edgekit.train.stages.consistency import PseudoLabels
from edgekit.train.stages.finetuning import FinetuneTask, Pool, label_shares, mean_probabilities
from edgekit.train.stages.held_out import MAX_IMAGES, LabelCheck, check_labels
from edgekit.train.stages.linear_head import EmbeddingPart, start_from_probe
from edgekit.train.stages.views import augment_for

_SAMPLED = 2000  # images of the pool to measure shares and disagreement: a standard error of at most 1.1 points
_MOST_FOLDS, _LEAST_FOLDS = 200, 5  # of the leave-one-out estimate
_WORK = 4_000_000_000  # multiplications of one product of all folds: with 300 classes, a fold takes seconds


class Finetuning:
    """The training task of the stage, and the choice of the stored classifier.

    Args:
        recipe: what to train.
        splits: the images.
        pretrained: encoder and projection head; trained in place.
        device: where models are evaluated.
    """

    def __init__(self, recipe: Recipe, splits: Splits, pretrained: Pretrained, device: torch.device) -> None:
        self.recipe, self.splits, self.device = recipe, splits, device
        config, data = recipe.finetune, recipe.data
        self.labeled = splits.labeled.center_crop(data.image_size)
        self.frozen = self._classifier(pretrained, copy.deepcopy(pretrained.encoder), keep=0)
        self.features = self._apply(EmbeddingPart(self.frozen), self.labeled)
        start_from_probe(self.frozen, self.features, labels_of(self.labeled))
        model = self._classifier(pretrained, pretrained.encoder, config.keep_projection_layers)
        if config.linear_first:
            features = (
                self._apply(EmbeddingPart(model), self.labeled) if config.keep_projection_layers else self.features
            )
            start_from_probe(model, features, labels_of(self.labeled))
        self.objective = objective_of(recipe)
        # Without a probe set, only the label budget can say whether its labels teach anything.
        checked = not len(splits.probe) and self.objective.one_class
        self.error = left_out_error(self.features, labels_of(self.labeled)) if checked else None
        self.label_check: LabelCheck | None = check_labels(self.error, labels_of(self.labeled)) if checked else None
        passed = self.label_check != "not better than guessing"
        pool = self._pool(model) if self._consistent and passed else None
        augment = augment_for(config.augmentation, self.recipe.data)
        self.task = FinetuneTask(model, augment, config, pool, self.objective)

    @property
    def _consistent(self) -> bool:
        """Whether pseudo-labels are learned: FixMatch takes the most probable class of an image for its label."""
        return self.recipe.finetune.consistency.enabled and self.objective.one_class

    def chosen(self) -> tuple[Classifier, dict[str, Any]]:
        """Return the classifier that the stage stores, and the evidence for its record."""
        model = self.task.result
        evidence = self._held_out(model) if len(self.splits.probe) else self._disagreement(model)
        falls_back = evidence.pop("falls_back") and self.recipe.finetune.fallback
        test = {
            name: self.accuracy(one, self.splits.test) for name, one in (("finetuned", model), ("frozen", self.frozen))
        }
        record = {"left": "frozen" if falls_back else "finetuned", **evidence, "test": test}
        return self.frozen if falls_back else model, record

    def remarks(self, choice: dict[str, Any]) -> list[str]:
        """Return notes for the user, one sentence each: on the checks of the pseudo-labels, and on the fallback."""
        lines = []
        consistency = self.consistency()
        if self.recipe.finetune.consistency.enabled and not self._consistent:
            lines.append(
                "note: consistency on pseudo-labels is off: its pseudo-label is the one class of an image, and these images have any number of "
                "classes"
            )
        if consistency is not None and consistency["stopped_at"] is not None:
            lines.append(
                f"warning: consistency stopped at step {consistency['stopped_at']}: {consistency['why']}; the network was restored from the "
                "start of the stage, and fine-tuning continued on the labels alone"
            )
        elif consistency is not None and self.label_check == "too few labels to tell":
            lines.append(
                "note: the pseudo-labels were not checked: there is no probe set, and "
                f"{len(self.labeled)} labels are too few"
            )
        if consistency is not None and consistency["other_pool"]:
            lines.append(f"warning: {consistency['other_pool']}")
        if choice["left"] == "frozen":
            why = (
                f"{choice['frozen']:.1%} {self.objective.task.quality} on the probe set against {choice['finetuned']:.1%}"
                if choice["on"] == "probe set"
                else f"they disagree on {choice['disagreement']:.1%} of the pool, the linear probe errs on {choice['error']:.1%} (leave-one-out)"
            )
            lines.append(
                f"warning: stored the linear probe on the frozen encoder, which is better than the fine-tuned network: {why}"
            )
        return lines

    def consistency(self) -> dict[str, Any] | None:
        """Return the outcome of consistency training, for the record of the stage; None if the recipe disables it."""
        if not self._consistent:
            return None
        task, last = self.task, self.task.checks.last
        stopped_at, why, reason = task.stopped_at, task.why, str(task.reason)
        if task.pool is None:
            stopped_at, reason = 0, "labels"
            why = f"a linear probe on the frozen encoder is no better than guessing ({self.error or 0:.0%} of the labels wrong, leave-one-out)"
        return {
            "stopped_at": stopped_at,
            "reason": reason,
            "why": why,
            "drift": task.drift,
            "held_out": None if last is None else last.content(),
            "other_pool": "" if task.checks.other_pool is None else task.checks.other_pool.other_pool,
            "labels": self.label_check,
        }

    def accuracy(self, model: nn.Module, images: ImageSet) -> float:
        """Return the metric that counts, of a classifier on labeled images."""
        return self.objective.quality(self._apply(model, images), labels_of(images))

    def _held_out(self, model: Classifier) -> dict[str, Any]:
        """Compare the two classifiers on the probe set."""
        probe = self.splits.probe
        accuracies = {name: self.accuracy(one, probe) for name, one in (("finetuned", model), ("frozen", self.frozen))}
        return {
            "falls_back": accuracies["finetuned"] < accuracies["frozen"],
            "on": "probe set",
            "images": len(probe),
            **accuracies,
        }

    def _disagreement(self, model: Classifier) -> dict[str, Any]:
        """Return whether the two classifiers disagree on more images than the errors of the probe can explain.

        Where images have several classes, nothing says so: the fine-tuned one is stored.
        """
        if not self.objective.one_class:
            return {"falls_back": False, "on": "nothing", "images": 0}
        pool = self._some_of_the_pool()
        answers = [self._apply(one, pool).argmax(1) for one in (model, self.frozen)]
        disagreement = 1 - share(*answers)
        error = self.error
        falls_back = error is not None and disagreement > 2 * error
        return {
            "falls_back": falls_back,
            "on": "pool",
            "images": len(pool),
            "disagreement": disagreement,
            "error": error,
        }

    def _pool(self, model: Classifier) -> Pool:
        config = self.recipe.finetune.consistency
        start = mean_probabilities(self._apply(model, self._some_of_the_pool()))
        labels = self.splits.labeled.labels
        assert labels is not None
        target = {"labels": label_shares(labels, len(start)), "start": start, "none": None}[config.align]
        pseudo = PseudoLabels(start, target, config.threshold, config.max_drift)
        probe = self.splits.probe
        held_out = probe.subset(spread_rows(len(probe), MAX_IMAGES)) if len(probe) else None
        return Pool(self.splits.pool, augment_for(self.recipe.strong_augmentation, self.recipe.data), pseudo, held_out)

    def _some_of_the_pool(self) -> ImageSet:
        """Return at most 2,000 images of the pool, evenly spaced, with evaluation preprocessing."""
        pool = self.splits.pool
        return pool.subset(spread_rows(len(pool), _SAMPLED)).center_crop(self.recipe.data.image_size)

    def _classifier(self, pretrained: Pretrained, encoder: Any, keep: int) -> Classifier:
        size, classes = self.recipe.data.image_size, self.splits.classes
        return Classifier(pretrained.architecture, size, classes, encoder, pretrained.head.keep(keep))

    def _apply(self, model: nn.Module, images: ImageSet) -> Tensor:
        return apply(model, images.images, self.recipe.data.mean, self.recipe.data.std, self.device)


def left_out_error(features: Tensor, labels: Tensor) -> float | None:
    """Return the leave-one-out error of the linear probe on labeled images; None if a class has a single image.

    Of many images, a fold holds out several.

    Args:
        features: (n, d), on the CPU.
        labels: int64 (n).
    """
    if int(labels.bincount().clamp(min=0)[labels.unique()].min()) < 2:
        return None
    folds = fold_count(features.numel() * len(labels.unique()), len(labels))
    wrong = 0
    for fold in range(folds):
        held = torch.arange(len(labels)) % folds == fold
        if len(labels[~held].unique()) < 2:
            return None
        predicted = linear_probe(features[~held], labels[~held], features[held])
        wrong += int((predicted != labels[held]).sum())
    return share_of(wrong, len(labels))


def fold_count(work: int, images: int) -> int:
    """Return in how many parts the images of a leave-one-out estimate are held out: one each, up to 200, of many classes fewer.

    Args:
        work: multiplications of one product of a fold: images x features x classes.
        images: number of images.
    """
    return min(images, _MOST_FOLDS, max(_LEAST_FOLDS, _WORK // work))
