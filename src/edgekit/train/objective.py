"""What the classifiers of a task learn from labels and from a teacher, and how they are scored: the training side of a task.

The stages, the distillation and the evaluation ask the recipe's objective; none of them knows a loss or a metric of any one task.
All losses are float32 whatever the autocast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit import tasks
from edgekit.recipe import Multilabel, Recipe
from edgekit.tasks import Task
from edgekit.tasks.classification import LOGITS
from edgekit.train.distill.losses import binary_distillation, binary_mixture, distillation, ensemble, mixture
from edgekit.train.loop.numerics import precise


class Objective(ABC):
    """The training side of a task.

    Attributes:
        task: what its classifiers answer.
        logged: name of the training score in histories.
        one_class: whether each image has one class, so that predictions are class indices: what pseudo-labels, the comparison of single
            images, advice and searches need.
    """

    task: Task
    logged: str
    one_class: bool

    @property
    def metric(self) -> str:
        """The metric that counts, in records `test_METRIC`."""
        return self.task.metric

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """The loss of logits (n, k) on labels; `smoothing` is the label smoothing."""

    @abstractmethod
    def soft_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The loss of a student's logits (n, k) on those of a teacher, into which no gradient flows."""

    @abstractmethod
    def ensemble(self, logits: Sequence[Tensor], temperature: float) -> Tensor:
        """Logits (n, k) that give the mean of the teachers' softened probabilities; of one teacher, its logits."""

    @abstractmethod
    def mixture(self, logits: Tensor, others: Tensor, share: Tensor, temperature: float) -> Tensor:
        """Logits (n, k) that give, of two images mixed by their shares (n,), the same mixture of the softened probabilities."""

    @abstractmethod
    def agreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """How far both decide alike, a scalar from 0 to 1."""

    def prepare(self, head: nn.Linear, labels: Tensor) -> None:
        """Set the last layer of a new network, whose weights are 0; `labels` are those that it will be trained on."""
        return

    @abstractmethod
    def training_score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The score of a batch, for `logged`: a scalar from 0 to 1."""

    def quality(self, logits: Tensor, labels: Tensor) -> float:
        """The metric that counts, of logits (n, k) on the CPU."""
        return self.task.score({LOGITS: logits.numpy()}, labels.numpy())[self.metric]


class OneClass(Objective):
    """Classification: cross-entropy, and the accuracy."""

    task = tasks.find(tasks.DEFAULT)
    logged = "train_top1"
    one_class = True

    def loss(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy, on labels int64 (n,)."""
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)

    def soft_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """See `distillation`."""
        return distillation(student, teacher, temperature)

    def ensemble(self, logits: Sequence[Tensor], temperature: float) -> Tensor:
        """See `ensemble`."""
        return ensemble(logits, temperature)

    def mixture(self, logits: Tensor, others: Tensor, share: Tensor, temperature: float) -> Tensor:
        """See `mixture`."""
        return mixture(logits, others, share, temperature)

    def agreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The share of the images for which both choose the same class."""
        return (student.argmax(1) == teacher.argmax(1)).float().mean()

    def training_score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The accuracy."""
        return (logits.argmax(1) == labels).float().mean()


class AnyClasses(Objective):
    """Multi-label classification: one sigmoid for each class.

    Args:
        config: the recipe's part: the loss.
    """

    task = tasks.find(tasks.MULTILABEL)
    logged = "train_f1"
    one_class = False

    def __init__(self, config: Multilabel) -> None:
        self.config = config

    def loss(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Binary cross-entropy or the asymmetric loss, on labels (n, k) of 0 and 1: the sum over the classes, the mean over the images.

        So it is the negative log-likelihood of the labels, as the cross-entropy of a classification, and learning rates fit both.
        """
        config = self.config
        targets = precise(labels)
        if smoothing:
            targets = targets * (1 - smoothing) + smoothing / 2
        if config.loss == "bce":
            return F.binary_cross_entropy_with_logits(precise(logits), targets, reduction="none").sum(1).mean()
        return asymmetric(logits, targets, config.gamma_negative, config.gamma_positive, config.clip)

    @torch.no_grad()
    def prepare(self, head: nn.Linear, labels: Tensor) -> None:
        """The bias gives each class its share of the images as its probability (Lin et al. 2017, arXiv 1708.02002, section 3.3).

        With 0.5, the first steps would do nothing but lower all probabilities, and the more the more classes there are. Not so with the asymmetric
        loss: it has hardly a gradient where classes that are not there are improbable.
        """
        if self.config.loss == "asymmetric":
            return
        shares = (labels.double().mean(0) if len(labels) else torch.full((head.out_features,), 0.5)).clamp(0.01, 0.99)
        head.bias.copy_(shares.logit())

    def soft_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """See `binary_distillation`."""
        return binary_distillation(student, teacher, temperature)

    def ensemble(self, logits: Sequence[Tensor], temperature: float) -> Tensor:
        """T logit(mean of sigmoid(z / T))."""
        if len(logits) == 1:
            return precise(logits[0])
        stacked = torch.stack([precise(one) for one in logits]) / temperature
        return temperature * (F.logsigmoid(stacked).logsumexp(0) - F.logsigmoid(-stacked).logsumexp(0))

    def mixture(self, logits: Tensor, others: Tensor, share: Tensor, temperature: float) -> Tensor:
        """See `binary_mixture`."""
        return binary_mixture(logits, others, share, temperature)

    def agreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The share of the decisions, one for each image and class, that are the same with the threshold 0.5."""
        return ((student >= 0) == (teacher >= 0)).float().mean()

    def training_score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Micro F1 of the batch with the threshold 0.5; 1 where nothing is there and nothing found."""
        found, there = logits >= 0, labels > 0
        total = found.sum() + there.sum()
        return torch.where(total > 0, 2 * (found & there).sum() / total.clamp(min=1), torch.ones_like(total)).float()


def objective_of(recipe: Recipe) -> Objective:
    """Return what a recipe's classifiers learn from."""
    return AnyClasses(recipe.multilabel) if recipe.task == tasks.MULTILABEL else OneClass()


def of_test(metrics: Mapping[str, Any]) -> float:
    """Return the metric that counts, on the test set, from the record of a stage that trained a classifier."""
    return float(metrics[f"test_{metrics.get('metric', tasks.find(tasks.DEFAULT).metric)}"])


def asymmetric(logits: Tensor, targets: Tensor, gamma_negative: float, gamma_positive: float, clip: float) -> Tensor:
    """The asymmetric loss (ASL; Ridnik et al. 2021, arXiv 2009.14119, equation 7).

    With p = sigmoid(z) and p_m = max(p - clip, 0): -y (1 - p)^gamma_positive log p - (1 - y) p_m^gamma_negative log(1 - p_m). Gradients flow through
    the focusing factors, too.

    Args:
        logits: (n, k).
        targets: (n, k), from 0 to 1.
        gamma_negative, gamma_positive: focusing of the classes that are not there and of those that are.
        clip: the shift of the probability of those that are not there.

    Returns:
        float32 scalar, the mean over n of the sum over k.
    """
    z = precise(logits)
    p = torch.sigmoid(z)
    there = -F.logsigmoid(z) * (1 - p) ** gamma_positive
    if clip:
        shifted = (p - clip).clamp(min=0)
        absent = -torch.log1p(-shifted) * shifted**gamma_negative  # 1 - p_m is at least the clip
    else:
        absent = -F.logsigmoid(-z) * p**gamma_negative
    return (targets * there + (1 - targets) * absent).sum(1).mean()
