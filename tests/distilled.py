"""Tiny teachers, students and batches for the tests of distillation: what their files share."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgekit.data.augment import Augment
from edgekit.data.images import ImageSet
from edgekit.models.classifier import Classifier
from edgekit.recipe import Architecture, Augmentation, Distill
from edgekit.train.distillation import DistillTask
from edgekit.train.tasks import Batch, Draws
from edgekit.train.teachers import Teacher

CLASSES = ["ant", "bee", "cat"]
SIZE = 16
TINY = Architecture(name="resnet10", width=0.125, stem="strided")


def classifier(seed: int, architecture: Architecture = TINY) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier.build(architecture, SIZE, CLASSES, [])
    nn.init.normal_(model.head.weight)
    return model


def images(count: int, first: int = 0, labelled: bool = False) -> ImageSet:
    rng = np.random.default_rng(first)
    return ImageSet(
        rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8), [f"{first + i}.png" for i in range(count)],
        [f"{first + i:032x}" for i in range(count)], np.arange(count, dtype=np.int64) % 3 if labelled else None,
    )  # fmt: skip


NO_AUGMENTATION = Augment(
    Augmentation(crop_scale=(1, 1), crop_ratio=(1, 1), flip=0, jitter=0, grey=0, blur=0), SIZE, 0.5, 0.25
)


def task(labelled: ImageSet | None = None, teachers: int = 1, **config: object) -> DistillTask:
    frozen = [Teacher(classifier(10 + i), SIZE) for i in range(teachers)]
    labelled = labelled if labelled is not None else images(9, 500, labelled=True)
    return DistillTask(classifier(0), frozen, NO_AUGMENTATION, Distill(**config), labelled)  # type: ignore[arg-type]


def step(distil: DistillTask, of: ImageSet) -> torch.Tensor:
    batch = Batch(images=torch.from_numpy(of.images), index=torch.arange(len(of)))
    if of.labels is not None:
        batch["labels"] = torch.from_numpy(of.labels)
    draws = Draws(torch.Generator().manual_seed(0), torch.Generator().manual_seed(0))
    return distil(batch, draws, monitor=False)["loss"]


def outputs(distil: DistillTask, of: ImageSet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and embedding of student and teacher for a batch."""
    view = NO_AUGMENTATION(torch.from_numpy(of.images), torch.Generator().manual_seed(0))
    embedding = distil.student.embed(view)
    teacher = distil.teachers[0].model
    assert isinstance(teacher, Classifier)
    return distil.student.head(embedding), embedding, teacher(view), teacher.embed(view)
