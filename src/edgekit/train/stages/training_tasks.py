"""The training task of each stage: a module whose forward returns the loss and values to log."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from edgekit.data.augment import Augment, OneBranch, TiledAugment
from edgekit.models.classifier import Classifier
from edgekit.train.loop.collapse import effective_rank, projection_std
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome
from edgekit.train.objective import Objective, OneClass
from edgekit.train.pretrain.method import Loss, Method, Views


class PretrainTask(nn.Module):
    """Pretraining: random views of each image, and the loss of the method.

    Args:
        method: one of `edgekit.train.pretrain.METHODS`.
        augment: makes the views.
    """

    def __init__(self, method: Method, augment: Augment | OneBranch | TiledAugment) -> None:
        super().__init__()
        self.method = method
        self.augment = augment

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
        """Return the loss of a batch; with `monitor`, also the two numbers of the collapse monitor."""
        views = self.augment(batch["images"], draws.own, self.method.views).chunk(self.method.views)
        loss = self.method(Views(list(views), batch["index"], draws.shared))
        return {"loss": loss.value, "logs": monitored(loss) if monitor else {}}

    def after_step(self, done: float) -> None:
        """Update the state of the method after a step (for instance, its momentum encoder)."""
        self.method.after_step(done)

    def constant_lr(self) -> Iterable[nn.Parameter]:
        """Return the parameters whose learning rate does not decay."""
        return self.method.constant_lr()


def monitored(loss: Loss) -> dict[str, Tensor]:
    """Return the two numbers of the collapse monitor."""
    return {"collapse_std": projection_std(loss.projections), "effective_rank": effective_rank(loss.features)}


class ClassifyTask(nn.Module):
    """The loss on labeled images: the supervised student from scratch.

    Args:
        model: a classifier.
        augment: makes a view.
        label_smoothing: of the labels.
        objective: the loss; None: that of a classification.
    """

    def __init__(
        self, model: Classifier, augment: Augment, label_smoothing: float, objective: Objective | None = None
    ) -> None:
        super().__init__()
        self.objective = objective or OneClass()
        self.model = model
        self.augment = augment
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
        """Return loss and training score of a batch of uint8 images with labels."""
        logits, labels = self.model(self.augment(batch["images"], draws.own)).float(), batch["labels"]
        loss = self.objective.loss(logits, labels, self.label_smoothing)
        return {"loss": loss, "logs": {self.objective.logged: self.objective.training_score(logits, labels)}}
