"""The rules: pure functions from facts to findings, in the order of what counts most."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgekit.errors import shortened
from edgekit.intervals import shown_less, unpaired, wilson
from edgekit.result import Advice
from edgekit.shares import hundredths, percent
from edgekit.stages import MODEL_OF
from edgekit.train.advice.facts import KEEP_AT_LEAST, RunFacts, StageFacts
from edgekit.train.analysis.symmetry import CLEARLY

MOST = 5  # findings that are printed; the report has all
ENOUGH_STEPS = 300  # of a stage that learns from labels
ENOUGH_PRETRAINING = 500
_CROPS_KEEP = 0.1  # of what plain images show of the classes, in crops: see `edgekit.train.advice.views`
_SHIFT = 0.05  # by so much, at least, the probe set must be easier than the test set
_LEARNED = 0.95  # training accuracy of a stage that has learned its labels
_NAMES = {"teacher": "the teacher", "student": "the student", "supervised": "the network from scratch"}

Rule = Callable[[RunFacts], list[Advice]]


def advise(facts: RunFacts) -> list[Advice]:
    """What the facts say, what counts most first; nothing where nothing is wrong.

    Args:
        facts: of a run.
    """
    if found := labels(facts):
        return found  # whatever else is wrong follows from it
    return [advice for rule in RULES for advice in rule(facts)]


def labels(facts: RunFacts) -> list[Advice]:
    """Every model is at chance, the probe on the frozen encoder, too: the labels do not go with the images."""
    models = [model for model in ("linear", *MODEL_OF.values()) if model in facts.predicted]
    best = max(models, key=facts.top1)
    if "linear" not in models or wilson(facts.top1(best), len(facts.truth))[0] > facts.chance:
        return []
    finding = (
        f"no model is better than chance: the best has {percent(facts.top1(best))}, always answering the most frequent class "
        f"{percent(facts.chance)} ({facts.held})"
    )
    change = "check that the labels of data.labeled (and of data.labels, where it is a file) go with the images"
    return [Advice(rule="labels", finding=finding, change=change)]


def learning_rate(facts: RunFacts) -> list[Advice]:
    """The loss rose above that of answering all classes alike, and the labels were not learned.

    Not each of the two alone: fine-tuning starts from a linear probe, which may be so sure that its loss on crops is large, and learns on.
    """
    found, uniform = [], math.log(len(facts.classes))
    for stage in ("finetune", "supervised"):
        seen = facts.stages.get(stage)
        if seen is None or not seen.losses or seen.top1 is None:
            continue
        kept_frozen = (
            stage == "finetune" and facts.fallback is not None
        )  # then its accuracy on the labels is the probe's
        right = seen.top1 if seen.labels_top1 is None or kept_frozen else seen.labels_top1
        worst = max(seen.losses)
        if right < 0.9 and worst > 1.5 * uniform:
            finding = (
                f"{stage}: the loss rose to {worst:.3g}, where guessing has {uniform:.3g}, and training ended with "
                f"{percent(right)} of the labels right"
            )
            found.append(Advice(rule="learning_rate", finding=finding, change=f"divide {stage}.optimizer.lr by 10"))
    return found


def views(facts: RunFacts) -> list[Advice]:
    """The pretraining's views do not show the classes."""
    seen = facts.views
    if (
        seen is None
        or seen.plain < seen.chance + 0.1
        or seen.kept >= (_CROPS_KEEP if seen.culprit == "crop" else KEEP_AT_LEAST)
    ):
        return []
    finding = (
        f"the views of the pretraining hide the classes: a probe has {percent(seen.augmented)} on them and {percent(seen.plain)} on plain "
        f"images (guessing {percent(seen.chance)})"
    )
    change = "weaken pretrain.augmentation"
    if seen.culprit == "crop":
        change = "set pretrain.augmentation.crop_scale: [0.3, 1.0]"
    elif seen.culprit and seen.without > seen.augmented + 0.05:
        change = f"set pretrain.augmentation.{seen.culprit}: 0; without it the probe has {percent(seen.without)}"
    return [Advice(rule="views", finding=finding, change=change)]


def mirrored(facts: RunFacts) -> list[Advice]:
    """Left and right mean something in these images, and they are flipped."""
    if facts.mirrored is None or facts.mirrored < CLEARLY:
        return []
    finding = (
        f"{', '.join(facts.flipping)}: images are flipped, though a small classifier tells {percent(facts.mirrored)} of them from their "
        "mirror images (guessing 50.0%): left and right mean something here"
    )
    change = f"set {', '.join(f'{stage}.augmentation.flip: 0' for stage in facts.flipping)}"
    return [Advice(rule="mirrored", finding=finding, change=change)]


def other_teacher(facts: RunFacts) -> list[Advice]:
    """A teacher from elsewhere knows less about these images than the run's own."""
    found = []
    for name, predicted in facts.other_teachers.items():
        right = predicted == facts.truth
        if shown_less(right, facts.right("teacher")):
            finding = (
                f"the teacher {name} is right on {percent(float(right.mean()))}, the run's own on {percent(facts.top1('teacher'))} "
                f"({facts.held})"
            )
            found.append(
                Advice(rule="other_teacher", finding=finding, change="set distill.teachers: [{model: own}], or train that teacher on such images")
            )  # fmt: skip
    return found


def missing_class(facts: RunFacts) -> list[Advice]:
    """A class that the teacher knows, and hardly ever sees in the pool."""
    if facts.in_pool is None or not facts.pool:
        return []
    found, predicted = [], facts.predicted["teacher"]
    for i in range(len(facts.classes)):
        name, of_class = _name(facts, i), facts.truth == i
        share, n = float((predicted == i).mean()), len(predicted)
        known = of_class.any() and float(facts.right("teacher")[of_class].mean()) >= 0.5
        rare = facts.in_pool[i] < 0.3 * share
        if known and rare and wilson(float(facts.in_pool[i]), facts.pool)[1] < wilson(share, n)[0]:
            finding = (
                f"the teacher takes {percent(float(facts.in_pool[i]))} of the pool for the class {name}, and {percent(share)} of the "
                f"{facts.held}"
            )
            found.append(
                Advice(rule="missing_class", finding=finding, change=f"add images of {name} to data.pool: the student learns only what is in it")
            )  # fmt: skip
    return found[:3]


_AFTER = {
    "drift": "check that data.pool shows the classes in about the shares of the labels, or set finetune.consistency.align: start",
    "wrong": "check the labels of data.labeled, and label more images of each class",
    "other pool": "take out of data.pool what is not of these classes, or set finetune.consistency.enabled: false",
    "labels": "check the labels of data.labeled, and label more images of each class",
}


def pseudo_labels(facts: RunFacts) -> list[Advice]:
    """Fine-tuning dropped the pseudo-labels."""
    if facts.dropped is None:
        return []
    step, reason, why = facts.dropped
    finding = f"fine-tuning dropped its pseudo-labels at step {step}: {why}"
    change = _AFTER.get(reason, "set finetune.consistency.enabled: false")
    return [Advice(rule="pseudo_labels", finding=finding, change=change)]


def shift(facts: RunFacts) -> list[Advice]:
    """The test images are of another kind than those that were held out of the training images."""
    if facts.on_test is None:
        return []
    here, (there, images) = facts.top1("student"), facts.on_test
    if unpaired(here, there, (len(facts.truth), images))[0] < _SHIFT:
        return []
    finding = (
        f"the student is right on {percent(here)} of the {facts.held}, and on {percent(there)} of the {images:,} test images: those are of "
        "another kind than the training images"
    )
    change = "add images like them to data.pool, and label some"
    return [Advice(rule="shift", finding=finding, change=change)]


def few_steps(facts: RunFacts) -> list[Advice]:
    """A stage ended before it had learned its labels, after very few steps."""
    found = []
    for stage, seen in facts.stages.items():
        if seen.steps is None or not seen.epochs or not seen.steps or (stage == "pretrain" and improving(facts)):
            continue  # the curve says more than a number of steps
        enough = ENOUGH_PRETRAINING if stage == "pretrain" else ENOUGH_STEPS
        top1 = seen.top1 if stage == "distill" else seen.labels_top1
        if seen.steps >= enough or (stage != "pretrain" and top1 is not None and top1 >= _LEARNED):
            continue
        what = {"pretrain": "", "distill": "agreement with the teacher"}.get(stage, "accuracy on the labels")
        number = f" ({what} {percent(top1)})" if what and top1 is not None else ""
        epochs = math.ceil(enough * seen.epochs / seen.steps)
        found.append(
            Advice(rule="few_steps", finding=f"{stage} had {seen.steps:,} steps{number}", change=f"set {stage}.epochs: {epochs}")
        )  # fmt: skip
    return found


def training_accuracy(facts: RunFacts) -> list[Advice]:
    """A stage did not learn its labels although it had the steps, or only without its crops."""
    found = []
    for stage in ("finetune", "supervised"):
        seen = facts.stages.get(stage)
        if seen is None or seen.labels_top1 is None or seen.top1 is None or (seen.steps or ENOUGH_STEPS) < ENOUGH_STEPS:
            continue
        if not _learned(seen):
            finding = f"{stage} ended with {percent(seen.labels_top1)} of its labels right"
            change = f"set {stage}.epochs: {2 * seen.epochs}, or change {stage}.optimizer.lr"
        elif seen.top1 < 0.75:
            finding = f"{stage}: {percent(seen.labels_top1)} of the labels are right on plain images, {percent(seen.top1)} on augmented ones"
            change = f"set {stage}.augmentation.crop_scale: [0.5, 1.0]"
        else:
            continue
        found.append(Advice(rule="training_accuracy", finding=finding, change=change))
    return found


def teacher(facts: RunFacts) -> list[Advice]:
    """The fine-tuning lost what the frozen encoder knew."""
    change = "divide finetune.optimizer.lr by 3, or weaken finetune.augmentation (crop_scale: [0.5, 1.0])"
    if facts.fallback is not None:
        finding = (
            f"the fine-tuned model ({percent(facts.fallback[0])} on the test set) was no better than a probe on the frozen encoder "
            f"({percent(facts.fallback[1])}), which was kept as the teacher"
        )
        return [Advice(rule="teacher", finding=finding, change=change)]
    if _too_short(facts, "finetune"):
        return []
    frozen = [name for name in ("linear", "centroid") if name in facts.predicted]
    best = max(frozen, key=facts.top1, default="")
    if not best or not shown_less(facts.right("teacher"), facts.right(best)):
        return []
    name = {"linear": "a linear probe", "centroid": "the nearest centroid"}[best]
    finding = (
        f"the teacher ({percent(facts.top1('teacher'))}) is below {name} on its own frozen encoder with the same labels "
        f"({percent(facts.top1(best))}; {facts.held})"
    )
    return [Advice(rule="teacher", finding=finding, change=change)]


def student(facts: RunFacts) -> list[Advice]:
    """The distillation lost what the teacher knew."""
    seen = facts.stages.get("distill")
    if seen is None or _too_short(facts, "distill") or not shown_less(facts.right("student"), facts.right("teacher")):
        return []
    agreement = f"; they agree on {percent(seen.top1)} of the training images" if seen.top1 is not None else ""
    finding = f"the student ({percent(facts.top1('student'))}) is below its teacher ({percent(facts.top1('teacher'))}; {facts.held}{agreement})"
    change = f"set distill.epochs: {2 * seen.epochs}, or widen distill.student"
    if seen.top1 is not None and seen.top1 >= _LEARNED:
        change = "add images to data.pool, or set distill.augmentation.crop_scale: [0.5, 1.0]"
    return [Advice(rule="student", finding=finding, change=change)]


def scratch(facts: RunFacts) -> list[Advice]:
    """The network from scratch is better: where was it lost?"""
    if "supervised" not in facts.predicted or not shown_less(facts.right("student"), facts.right("supervised")):
        return []
    by_scratch = facts.top1("supervised")
    finding = f"the student ({percent(facts.top1('student'))}) is below the same network from scratch ({percent(by_scratch)}; {facts.held})"
    epochs = facts.stages["pretrain"].epochs if "pretrain" in facts.stages else 0
    if facts.top1("teacher") >= by_scratch:
        change = "the teacher is not: distill longer, or into a larger student"
    elif "linear" in facts.predicted and facts.top1("linear") >= by_scratch:
        change = (
            "a probe on the frozen encoder is not: fine-tune longer, with weaker crops or a lower finetune.optimizer.lr"
        )
    else:
        change = f"the encoder is: set pretrain.epochs: {2 * epochs}" if epochs else "the encoder is: pretrain longer"
    return [Advice(rule="scratch", finding=finding, change=change)]


def pretraining(facts: RunFacts) -> list[Advice]:
    """The pretraining left the encoder where it began."""
    before, after = facts.knn_before, facts.knn_after
    if before is None or after is None or after >= before + 0.01:
        return []
    finding = f"the pretraining took the encoder's kNN accuracy from {percent(before)} to {percent(after)}"
    change = "set pretrain.epochs higher, or pretrain.optimizer.lr lower"
    return [Advice(rule="pretraining", finding=finding, change=change)]


def improving(facts: RunFacts) -> list[Advice]:
    """The encoder was still improving: what would twice the epochs bring, if the curve goes on as it went?

    The gain of the last doubling of the epochs, times how much smaller it was than that of the doubling before (at most 1).
    """
    if not facts.knn:
        return []
    last, final = facts.knn[-1]
    half, quarter = _at(facts.knn, last / 2), _at(facts.knn, last / 4)
    if half is None or final - half[1] < 0.01:
        return []
    if facts.knn_images and unpaired(final, half[1], (facts.knn_images, facts.knn_images))[0] <= 0:
        return []  # so small a difference may be chance
    gain = final - half[1]
    earlier = half[1] - quarter[1] if quarter is not None and quarter[0] < half[0] else 0.0
    expected = gain * (min(1.0, gain / earlier) if earlier > 0 else 0.5)
    if expected < 0.005:
        return []
    finding = (
        f"the encoder was still improving: kNN {percent(half[1])} after {half[0]} epochs, {percent(final)} after {last}"
    )
    change = (
        f"set pretrain.epochs: {2 * last}; about {hundredths(expected, signed=True)} points if the curve goes on so"
    )
    return [Advice(rule="improving", finding=finding, change=change)]


def mixed_classes(facts: RunFacts) -> list[Advice]:
    """The pairs of classes that the student mixes up most, at most three."""
    count = len(facts.classes)
    cells = np.bincount(facts.truth * count + facts.predicted["student"], minlength=count * count).reshape(count, count)
    both = np.triu(cells + cells.T, 1)
    sizes, taken = cells.sum(axis=1), cells.sum(axis=0)
    pairs = []
    for flat in np.argsort(-both, axis=None, kind="stable")[:3]:
        i, j = divmod(int(flat), count)
        wrong, images = int(both[i, j]), int(sizes[i] + sizes[j])
        collapsed = (
            taken[[i, j]] > 2 * sizes[[i, j]]
        ).any()  # it takes every image for one of them: that is something else
        if wrong >= 5 and wrong >= 0.1 * images and not collapsed:
            pairs.append(f"{_name(facts, i)} and {_name(facts, j)} ({wrong} of their {images} images)")
    if not pairs:
        return []
    finding = f"the student mixes up {', '.join(pairs)} ({facts.held})"
    change = "label more images of these classes, and look for wrong labels among them"
    return [Advice(rule="mixed_classes", finding=finding, change=change)]


RULES: tuple[Rule, ...] = (
    learning_rate, views, mirrored, other_teacher, missing_class, pseudo_labels, few_steps, training_accuracy, scratch, teacher, student,
    pretraining, improving, shift, mixed_classes,
)  # fmt: skip


def _too_short(facts: RunFacts, stage: str) -> bool:
    """Whether a stage had too few steps: what its model lacks follows from that."""
    return any(advice.change.startswith(f"set {stage}.") for advice in few_steps(facts))


def _name(facts: RunFacts, index: int) -> str:
    """A class's name, short enough for a line."""
    return shortened(facts.classes[index], 40)


def _learned(seen: StageFacts) -> bool:
    return seen.labels_top1 is not None and seen.labels_top1 >= _LEARNED


def _at(curve: list[tuple[int, float]], epoch: float) -> tuple[int, float] | None:
    """The point of the curve nearest to an epoch, at most a quarter of it away."""
    nearest = min(curve, key=lambda point: abs(point[0] - epoch))
    return nearest if abs(nearest[0] - epoch) <= epoch / 4 else None
