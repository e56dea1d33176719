"""The predictions of a run's classifiers for labeled images, their differences in accuracy, and the worst errors of the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from edgekit.answers import Answers
from edgekit.data.images import ImageSet
from edgekit.data.pixels import Pixels
from edgekit.intervals import RESAMPLES, mcnemar, paired
from edgekit.progress import progress
from edgekit.recipe import Recipe
from edgekit.result import Difference, WorstImage
from edgekit.shares import share_of
from edgekit.tasks.occlusion import occlusion_map, run_count
from edgekit.train.evaluate.features import apply

WORST = 18
EXPLAINED = 6  # each takes some 80 images through the student
_SIDE = 64  # longer side of a thumbnail, in pixels


def answers_of(
    logits: Mapping[str, Tensor], images: ImageSet, temperatures: Mapping[str, float] | None = None
) -> Answers:
    """Convert logits to answers.

    Args:
        logits: by model, float32 (n, classes), on the CPU.
        images: n, with labels.
        temperatures: by model, of its probabilities; 1 where there is none.
    """
    assert images.labels is not None
    predicted, probability = {}, {}
    for model, values in logits.items():
        predicted[model] = values.argmax(1).numpy().astype(np.int32)
        temperature = (temperatures or {}).get(model, 1.0)
        probability[model] = (values / temperature).softmax(1).amax(1).numpy().astype(np.float32)
    return Answers(images.labels.astype(np.int32), predicted, probability)


def answer(models: Mapping[str, nn.Module], images: ImageSet, recipe: Recipe, device: torch.device) -> Answers:
    """Return the answers of classifiers to images with evaluation preprocessing."""
    mean, std = recipe.data.mean, recipe.data.std
    logits = {name: apply(model, images.images, mean, std, device, name) for name, model in models.items()}
    return answers_of(logits, images)


def with_worst(answers: Answers, images: ImageSet, classes: Sequence[str]) -> tuple[Answers, list[WorstImage]]:
    """Add thumbnails of the wrong predictions in which the student is most confident, at most `WORST`.

    Args:
        answers: to the images.
        images: uint8, with evaluation preprocessing.
        classes: names.
    """
    if "student" not in answers.predicted:
        return answers, []
    wrong = np.flatnonzero(~answers.right("student"))
    certain = answers.probability["student"][wrong]
    rows = wrong[np.argsort(-certain, kind="stable")[:WORST]]
    reduction = max(1.0, max(images.size) / _SIDE)
    height, width = (max(1, round(side / reduction)) for side in images.size)
    pictures = [
        np.asarray(Image.fromarray(images.images[i]).resize((width, height), Image.Resampling.BOX)) for i in rows
    ]
    thumbnails = np.stack(pictures) if pictures else np.zeros((0, height, width, 3), np.uint8)
    worst = [
        WorstImage(
            file=images.names[i].encode("utf-8", "replace").decode(),  # a file name may not be valid Unicode
            truth=classes[answers.truth[i]],
            predicted=classes[answers.predicted["student"][i]],
            probability=float(answers.probability["student"][i]),
        )
        for i in rows
    ]
    return Answers(answers.truth, answers.predicted, answers.probability, rows.astype(np.int32), thumbnails), worst


def with_maps(answers: Answers, student: nn.Module, images: ImageSet, recipe: Recipe, device: torch.device) -> Answers:
    """Add to the first thumbnails which places speak for the class that the student took the image for, at most to `EXPLAINED`.

    Args:
        answers: with thumbnails of `images`.
        student: maps normalized images to logits.
        images: uint8, with evaluation preprocessing.
        recipe: for the normalization.
        device: where the student runs.
    """
    rows = answers.worst[:EXPLAINED]
    if not len(rows):
        return answers
    height, width = answers.thumbnails.shape[1:3]
    seen_height, seen_width = images.size

    def scores(pixels: Pixels) -> NDArray[np.float32]:
        return np.asarray(apply(student, pixels, recipe.data.mean, recipe.data.std, device).numpy())

    maps = []
    with progress("occlusion", len(rows) * run_count((seen_height, seen_width)), unit="images") as advance:
        for i in rows:
            chosen = int(answers.predicted["student"][i])
            _, heat = occlusion_map(np.asarray(images.images[i]), scores, chosen=chosen, advance=advance)
            maps.append(np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BOX)))
    return replace(answers, maps=np.stack(maps).astype(np.float32))


def differences(draws: Sequence[Answers], seed: int) -> list[Difference]:
    """Return the differences in accuracy between the student and the network from scratch, and between the student and the teacher.

    Args:
        draws: for each draw of the labels, the answers of its models to the same images.
        seed: of the resampling.
    """
    results = []
    for other in ("supervised", "teacher"):
        if any({"student", other} - set(answers.predicted) for answers in draws) or not len(draws[0]):
            continue
        each = np.stack([a.right("student").astype(np.int8) - a.right(other).astype(np.int8) for a in draws])
        better, worse = int((each[0] > 0).sum()), int((each[0] < 0).sum())
        over = f"images and {len(draws)} label draws" if len(draws) > 1 else "images"
        results.append(
            Difference(
                first="student",
                second=other,
                value=share_of(int(each.sum(dtype=np.int64)), each.size),
                interval=paired(each, seed),
                samples=each.shape[1],
                draws=len(draws),
                p_value=mcnemar(better, worse) if len(draws) == 1 else None,
                protocol=f"same test images, paired bootstrap over {over}, 95 % percentile interval of {RESAMPLES:,} resamples, seed {seed}",
            )
        )
    return results
