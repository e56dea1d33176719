"""Tiny teachers, students and batches for the tests of distillation: what their files share."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgekit.data.augment import Augment
from edgekit.data.images import ImageSet
from edgekit.models.classifier import Classifier
from edgekit.recipe import Architecture, Augmentation, Distill
from edgekit.train.distill.distillation import DistillTask
from edgekit.train.distill.teachers import Teacher
from edgekit.train.loop.failures import TrainingInterrupted
from edgekit.train.loop.step import Batch, StepDraws

CLASSES = ["ant", "bee", "cat"]
SIZE = 16
TINY = Architecture(name="resnet10", width=0.125, stem="strided")


def classifier(seed: int, architecture: Architecture = TINY) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier.build(architecture, SIZE, CLASSES, [])
    nn.init.normal_(model.head.weight)
    return model


def images(count: int, first: int = 0, labeled: bool = False) -> ImageSet:
    rng = np.random.default_rng(first)
    return ImageSet(
        rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8), [f"{first + i}.png" for i in range(count)],
        [f"{first + i:032x}" for i in range(count)], np.arange(count, dtype=np.int64) % 3 if labeled else None,
    )  # fmt: skip


NO_AUGMENTATION = Augment(
    Augmentation(crop_scale=(1, 1), crop_ratio=(1, 1), flip=0, jitter=0, gray=0, blur=0), SIZE, 0.5, 0.25
)


def task(labeled: ImageSet | None = None, teachers: int = 1, **config: object) -> DistillTask:
    frozen = [Teacher(classifier(10 + i), SIZE) for i in range(teachers)]
    labeled = labeled if labeled is not None else images(9, 500, labeled=True)
    return DistillTask(classifier(0), frozen, NO_AUGMENTATION, Distill(**{"mixup": 0.0, **config}), labeled)  # type: ignore[arg-type]


def step(distill: DistillTask, of: ImageSet) -> torch.Tensor:
    batch = Batch(images=torch.from_numpy(of.images), index=torch.arange(len(of)))
    if of.labels is not None:
        batch["labels"] = torch.from_numpy(of.labels)
    draws = StepDraws(torch.Generator().manual_seed(0), torch.Generator().manual_seed(0))
    return distill(batch, draws, monitor=False)["loss"]


def outputs(distill: DistillTask, of: ImageSet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and embedding of student and teacher for a batch."""
    view = NO_AUGMENTATION(torch.from_numpy(of.images), torch.Generator().manual_seed(0))
    embedding = distill.student.embed(view)
    teacher = distill.teachers[0].model
    assert isinstance(teacher, Classifier)
    return distill.student.head(embedding), embedding, teacher(view), teacher.embed(view)


class Halting:
    """Makes a training task stop after some steps, as a power cut would: a base class before the task's."""

    stop_at = 0

    def after_step(self, done: float) -> None:
        super().after_step(done)  # type: ignore[misc]
        if self.stop_at and self.steps == self.stop_at:  # type: ignore[attr-defined]
            raise TrainingInterrupted
