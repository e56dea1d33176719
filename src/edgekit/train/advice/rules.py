"""The rules: pure functions from facts to findings."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgekit.errors import shortened
from edgekit.intervals import shown_less, unpaired, wilson
from edgekit.result import Advice
from edgekit.shares import hundredths, percent
from edgekit.stages import MODEL_OF
from edgekit.text import counted
from edgekit.train.advice.facts import VIEWS_KEEP, RunFacts, StageFacts
from edgekit.train.analysis.symmetry import CLEARLY

MOST = 5  # printed findings; the report has all
ENOUGH_STEPS = 300  # for a stage that learns from labels
ENOUGH_PRETRAINING = 500  # steps
_CROPS_KEEP = 0.1  # VIEWS_KEEP for crops: see `edgekit.train.advice.views`
_MIN_SHIFT = 0.05  # smallest difference between the accuracies on probe set and test set
_ENOUGH_LABELS = 0.97  # accuracy of the network from scratch, to which unlabeled images can add little
_LEARNED = 0.95  # training accuracy of a stage that has learned its labels

Rule = Callable[[RunFacts], list[Advice]]


def advise(facts: RunFacts) -> list[Advice]:
    """Return all findings, the most important first; empty if nothing is wrong.

    Args:
        facts: the facts of a run.
    """
    if found := labels(facts):
        return found  # all other findings would follow from it
    return [advice for rule in RULES for advice in rule(facts)]


def labels(facts: RunFacts) -> list[Advice]:
    """Find labels that do not match the images: every model is at chance, also the probe on the frozen encoder."""
    models = [model for model in ("linear", *MODEL_OF.values()) if model in facts.predicted]
    best = max(models, key=facts.top1)
    if "linear" not in models or wilson(facts.top1(best), len(facts.truth))[0] > facts.chance:
        return []
    finding = (
        f"no model is better than guessing: the best has {percent(facts.top1(best))}, always predicting the most frequent class has "
        f"{percent(facts.chance)} ({facts.held})"
    )
    change = "check that the labels of data.labeled (and of data.labels, if it is a file) match the images"
    return [Advice(rule="labels", finding=finding, change=change)]


def learning_rate(facts: RunFacts) -> list[Advice]:
    """Find a learning rate that is too high: the loss rose, and the labels were not learned.

    One of the two is not enough. Fine-tuning starts from a linear probe, which may be so confident that its first loss is far above that of
    guessing; the network from scratch starts at guessing.
    """
    findings = ((stage, _learning_rate(facts, stage)) for stage in ("finetune", "distill", "supervised"))
    return [
        Advice(rule="learning_rate", finding=finding, change=f"divide {stage}.optimizer.lr by 10")
        for stage, finding in findings
        if finding
    ]


def _learning_rate(facts: RunFacts, stage: str) -> str:
    """Return the finding on the learning rate of one stage; empty if there is none."""
    seen, guessing = facts.stages.get(stage), math.log(len(facts.classes))
    if seen is None or not seen.losses or seen.top1 is None:
        return ""
    if stage == "distill":  # its loss has other scales: with a temperature, or another form
        if seen.top1 >= 0.5 or max(seen.losses) < 1.5 * seen.losses[0]:
            return ""
        return (
            f"the loss of distill rose from {seen.losses[0]:.3g} to {max(seen.losses):.3g}, and the student agrees with its teacher on only "
            f"{percent(seen.top1)} of the training images"
        )
    # If the probe was stored, the accuracy on the labels is that of the probe.
    stored_probe = stage == "finetune" and facts.fallback is not None
    right = seen.top1 if seen.labels_top1 is None or stored_probe else seen.labels_top1
    start = max(guessing, seen.losses[0]) if stage == "finetune" else guessing
    if right >= 0.9 or max(seen.losses) <= 1.5 * start:
        return ""
    return f"the loss of {stage} rose from {start:.3g} to {max(seen.losses):.3g}, and it learned only {percent(right)} of its labels"


def views(facts: RunFacts) -> list[Advice]:
    """Find an augmentation of pretraining that hides the classes."""
    seen = facts.views
    if (
        seen is None
        or seen.plain < seen.chance + 0.1
        or seen.kept >= (_CROPS_KEEP if seen.culprit == "crop" else VIEWS_KEEP)
    ):
        return []
    finding = (
        f"the augmentation of pretraining hides the classes: a probe has {percent(seen.augmented)} on augmented images and "
        f"{percent(seen.plain)} on plain images (guessing: {percent(seen.chance)})"
    )
    change = "weaken pretrain.augmentation"
    if seen.culprit == "crop":
        change = "set pretrain.augmentation.crop_scale: [0.3, 1.0]"
    elif seen.culprit and seen.without > seen.augmented + 0.05:
        change = f"set pretrain.augmentation.{seen.culprit}: 0; without it, the probe has {percent(seen.without)}"
    return [Advice(rule="views", finding=finding, change=change)]


def mirrored(facts: RunFacts) -> list[Advice]:
    """Find flips of images in which left and right matter."""
    if facts.mirrored is None or facts.mirrored < CLEARLY:
        return []
    finding = (
        f"{', '.join(facts.flipping)}: images are flipped, but left and right matter in them: a small classifier distinguishes "
        f"{percent(facts.mirrored)} of them from their mirror images (guessing: 50.0%)"
    )
    change = f"set {', '.join(f'{stage}.augmentation.flip: 0' for stage in facts.flipping)}"
    return [Advice(rule="mirrored", finding=finding, change=change)]


def other_teacher(facts: RunFacts) -> list[Advice]:
    """Find teachers of another source that are less accurate on these images than the teacher of the run."""
    found = []
    for name, predicted in facts.other_teachers.items():
        right = predicted == facts.truth
        if shown_less(right, facts.right("teacher")):
            finding = (
                f"the teacher {name} has {percent(float(right.mean()))} accuracy, the teacher of this run {percent(facts.top1('teacher'))} "
                f"({facts.held})"
            )
            change = "set distill.teachers: [{model: own}], or train that teacher on images and classes like these"
            found.append(Advice(rule="other_teacher", finding=finding, change=change))
    return found


def missing_class(facts: RunFacts) -> list[Advice]:
    """Find classes that are rare in the pool, although the teacher recognizes them in labeled images; at most three."""
    found, predicted = [], facts.predicted["teacher"]
    for i in _missing(facts)[:3]:
        assert facts.in_pool is not None
        name, shares = _name(facts, i), (float(facts.in_pool[i]), float((predicted == i).mean()))
        finding = f"the teacher assigns {percent(shares[0])} of the pool to the class {name}, but {percent(shares[1])} of the {facts.held}"
        change = f"add images of {name} to data.pool: the student learns only from the pool"
        found.append(Advice(rule="missing_class", finding=finding, change=change))
    return found


def _missing(facts: RunFacts) -> list[int]:
    """Return the classes that are rare in the pool, although the teacher recognizes at least half of their labeled images."""
    if facts.in_pool is None or not facts.pool:
        return []
    found, predicted, right = [], facts.predicted["teacher"], facts.right("teacher")
    for i, in_pool in enumerate(facts.in_pool.tolist()):
        of_class, share = facts.truth == i, float((predicted == i).mean())
        known = bool(of_class.any()) and float(right[of_class].mean()) >= 0.5
        if known and in_pool < 0.3 * share and wilson(in_pool, facts.pool)[1] < wilson(share, len(predicted))[0]:
            found.append(i)
    return found


_AFTER_DROP = {
    "drift": "check that data.pool shows the classes in about the shares of the labels, or set finetune.consistency.align: start",
    "wrong": "check the labels of data.labeled; if they are right, pretrain longer, or label more images of each class",
    "labels": "check the labels of data.labeled; if they are right, pretrain longer, or label more images of each class",
}


def pseudo_labels(facts: RunFacts) -> list[Advice]:
    """Report pseudo-labels that fine-tuning has dropped."""
    if facts.dropped is None:
        return []
    step, reason, why = facts.dropped
    finding = f"fine-tuning dropped its pseudo-labels at step {step}: {why}"
    change = _AFTER_DROP.get(reason, "set finetune.consistency.enabled: false")
    return [Advice(rule="pseudo_labels", finding=finding, change=change)]


def other_pool(facts: RunFacts) -> list[Advice]:
    """Find a pool that shows other things than the labeled images."""
    if not facts.other_pool:
        return []
    change = "remove images that show none of the classes from data.pool, or label some like them"
    return [Advice(rule="other_pool", finding=facts.other_pool, change=change)]


def shift(facts: RunFacts) -> list[Advice]:
    """Find test images that differ from the probe set, which comes from the training images."""
    if facts.on_test is None:
        return []
    here, (there, images) = facts.top1("student"), facts.on_test
    if unpaired(here, there, (len(facts.truth), images))[0] < _MIN_SHIFT:
        return []
    finding = (
        f"the student has {percent(here)} on the {facts.held}, but {percent(there)} on the {images:,} test images: they differ from the "
        "training images"
    )
    change = "add images like them to data.pool, and label some"
    return [Advice(rule="shift", finding=finding, change=change)]


def few_steps(facts: RunFacts) -> list[Advice]:
    """Find stages that ended after very few steps, before they had learned their labels."""
    found = []
    for stage, seen in facts.stages.items():
        if seen.steps is None or not seen.epochs or not seen.steps or (stage == "pretrain" and improving(facts)):
            continue  # the kNN curve is better evidence than the number of steps
        enough = ENOUGH_PRETRAINING if stage == "pretrain" else ENOUGH_STEPS
        top1 = seen.top1 if stage == "distill" else seen.labels_top1
        if seen.steps >= enough or (stage != "pretrain" and top1 is not None and top1 >= _LEARNED):
            continue
        what = {"pretrain": "", "distill": "agreement with the teacher"}.get(stage, "accuracy on the labels")
        number = f" ({what} {percent(top1)})" if what and top1 is not None else ""
        finding = f"{stage} had {seen.steps:,} steps{number}, of at least {enough:,}"
        found.append(
            Advice(rule="few_steps", finding=finding, change=f"set {stage}.epochs: {_enough_epochs(seen, enough)}")
        )
    return found


def training_accuracy(facts: RunFacts) -> list[Advice]:
    """Find stages with enough steps that did not learn their labels, or only without crops."""
    found = []
    for stage in ("finetune", "supervised"):
        seen = facts.stages.get(stage)
        if seen is None or seen.labels_top1 is None or seen.top1 is None or (seen.steps or ENOUGH_STEPS) < ENOUGH_STEPS:
            continue
        if _learning_rate(facts, stage):
            continue  # this finding follows from that one
        if not _learned(seen):
            finding = f"{stage} learned only {percent(seen.labels_top1)} of its labels"
            change = f"set {stage}.epochs: {2 * seen.epochs}, or change {stage}.optimizer.lr"
        elif seen.top1 < 0.75:
            finding = f"{stage} has {percent(seen.labels_top1)} accuracy on its plain images, but {percent(seen.top1)} on augmented ones"
            change = f"set {stage}.augmentation.crop_scale: [0.5, 1.0]"
        else:
            continue
        found.append(Advice(rule="training_accuracy", finding=finding, change=change))
    return found


def teacher(facts: RunFacts) -> list[Advice]:
    """Find a fine-tuning that is worse than the frozen encoder."""
    if _learning_rate(facts, "finetune") or _too_short(facts, "finetune"):
        return []  # this finding follows from that one
    change = "divide finetune.optimizer.lr by 3, or weaken finetune.augmentation (crop_scale: [0.5, 1.0])"
    if facts.fallback is not None:
        finetuned, frozen = facts.fallback
        if facts.knn_images and unpaired(frozen, finetuned, (facts.knn_images, facts.knn_images))[0] <= 0:
            return []  # the fallback has kept the better one of two that hardly differ
        finding = (
            f"the fine-tuned network has {percent(finetuned)} on the test set, a linear probe on the frozen encoder {percent(frozen)}: "
            "the probe was stored as the teacher"
        )
        return [Advice(rule="teacher", finding=finding, change=change)]
    on_frozen = [name for name in ("linear", "centroid") if name in facts.predicted]
    best = max(on_frozen, key=facts.top1, default="")
    if not best or not shown_less(facts.right("teacher"), facts.right(best)):
        return []
    name = {"linear": "a linear probe", "centroid": "the nearest centroid"}[best]
    finding = (
        f"the teacher has {percent(facts.top1('teacher'))}, less than {name} on its own frozen encoder with the same labels "
        f"({percent(facts.top1(best))}; {facts.held})"
    )
    return [Advice(rule="teacher", finding=finding, change=change)]


def student(facts: RunFacts) -> list[Advice]:
    """Find a student that is worse than its teacher."""
    seen = facts.stages.get("distill")
    if seen is None or _badly_taught(facts) or _too_short(facts, "distill"):
        return []
    if not shown_less(facts.right("student"), facts.right("teacher")):
        return []
    agreement = (
        f"; they agree on {percent(seen.top1)} of the augmented training images" if seen.top1 is not None else ""
    )
    finding = f"the student has {percent(facts.top1('student'))}, its teacher {percent(facts.top1('teacher'))} ({facts.held}{agreement})"
    change = f"set distill.epochs: {2 * seen.epochs}, or widen distill.student"
    if seen.top1 is not None and seen.top1 >= _LEARNED:
        change = "add images to data.pool, or set distill.augmentation.crop_scale: [0.5, 1.0]"
    return [Advice(rule="student", finding=finding, change=change)]


def scratch(facts: RunFacts) -> list[Advice]:
    """Find a student that is worse than the network from scratch, and the stage that causes it."""
    if "supervised" not in facts.predicted or not shown_less(facts.right("student"), facts.right("supervised")):
        return []
    if _badly_taught(facts):
        return []  # this finding follows from that one
    by_scratch = facts.top1("supervised")
    finding = f"the student has {percent(facts.top1('student'))}, the same network from scratch {percent(by_scratch)} ({facts.held})"
    if facts.top1("teacher") >= by_scratch:
        change = "the teacher is not worse: distill longer, or into a larger student"
    elif "linear" in facts.predicted and facts.top1("linear") >= by_scratch:
        change = "a probe on the frozen encoder is not worse: fine-tune longer, with weaker crops or a lower finetune.optimizer.lr"
    else:
        augmented = views(facts) or ("pretrain" in facts.flipping and mirrored(facts))
        change = f"the encoder is worse, too: {'change its augmentation first, as above' if augmented else _pretrain_longer(facts)}"
    return [Advice(rule="scratch", finding=finding, change=change)]


def no_gain(facts: RunFacts) -> list[Advice]:
    """Find unlabeled images that made no difference that these images can show."""
    if not {"student", "supervised"} <= facts.predicted.keys() or _badly_taught(facts):
        return []
    ours, by_scratch = facts.right("student"), facts.right("supervised")
    if shown_less(ours, by_scratch) or shown_less(by_scratch, ours):
        return []
    if teacher(facts) or student(facts) or missing_class(facts):
        return []  # these say why
    finding = (
        f"the unlabeled images made no significant difference: the student has {percent(facts.top1('student'))}, the same network from scratch "
        f"{percent(facts.top1('supervised'))} ({facts.held})"
    )
    if facts.top1("supervised") >= _ENOUGH_LABELS:
        return [
            Advice(
                rule="no_gain", finding=finding, change="the labels alone are enough: try fewer of them (data.labels)"
            )
        ]
    change = f"add unlabeled images to data.pool, and {_pretrain_longer(facts)}"
    return [Advice(rule="no_gain", finding=finding, change=change)]


def pretraining(facts: RunFacts) -> list[Advice]:
    """Find a pretraining that did not improve the encoder."""
    before, after = facts.knn_before, facts.knn_after
    if before is None or after is None or after >= before + 0.01:
        return []
    finding = f"pretraining changed the kNN accuracy of the encoder from {percent(before)} to {percent(after)}"
    change = "set pretrain.epochs higher, or pretrain.optimizer.lr lower"
    return [Advice(rule="pretraining", finding=finding, change=change)]


def improving(facts: RunFacts) -> list[Advice]:
    """Find an encoder that was still improving, and extrapolate its kNN curve to twice the epochs.

    The expected gain is the gain of the last doubling of the epochs, times its ratio to the gain of the doubling before (at most 1).
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
    finding = f"the encoder was still improving: kNN {percent(half[1])} after {counted(half[0], 'epoch')}, {percent(final)} after {last}"
    change = f"set pretrain.epochs: {2 * last}; about {hundredths(expected, signed=True)} points if the curve continues"
    return [Advice(rule="improving", finding=finding, change=change)]


def mixed_classes(facts: RunFacts) -> list[Advice]:
    """Find the pairs of classes that the student confuses most, at most three."""
    if _badly_taught(facts):
        return []  # the student has not learned the classes
    count = len(facts.classes)
    cells = np.bincount(facts.truth * count + facts.predicted["student"], minlength=count * count).reshape(count, count)
    both = np.triu(cells + cells.T, 1)
    sizes, taken = cells.sum(axis=1), cells.sum(axis=0)
    pairs, missing = [], _missing(facts)
    for flat in np.argsort(-both, axis=None, kind="stable")[:3]:
        i, j = divmod(int(flat), count)
        wrong, images = int(both[i, j]), int(sizes[i] + sizes[j])
        # A class that takes the images of all others is another problem than a pair of similar classes.
        collapsed = (taken[[i, j]] > 2 * sizes[[i, j]]).any()
        if wrong >= 5 and wrong >= 0.1 * images and not collapsed and not {i, j} & set(missing):
            pairs.append(f"{_name(facts, i)} and {_name(facts, j)} ({wrong} of their {images} images)")
    if not pairs:
        return []
    finding = f"the student confuses {', '.join(pairs)} ({facts.held})"
    change = "label more images of these classes, and check their labels"
    return [Advice(rule="mixed_classes", finding=finding, change=change)]


RULES: tuple[Rule, ...] = (
    learning_rate, views, mirrored, other_teacher, missing_class, pseudo_labels, other_pool, few_steps, training_accuracy, scratch, teacher, student,
    pretraining, improving, shift, mixed_classes, no_gain,
)  # fmt: skip


def _pretrain_longer(facts: RunFacts) -> str:
    """Return the change to twice the epochs of pretraining, or to as many as have enough steps."""
    pretrain = facts.stages.get("pretrain")
    if pretrain is None or not pretrain.epochs:
        return "pretrain longer"
    return f"set pretrain.epochs: {max(2 * pretrain.epochs, _enough_epochs(pretrain, ENOUGH_PRETRAINING))}"


def _enough_epochs(seen: StageFacts, steps: int) -> int:
    """Return the epochs that have so many steps; 0 where the stage's own are unknown."""
    return math.ceil(steps * seen.epochs / seen.steps) if seen.epochs and seen.steps else 0


def _badly_taught(facts: RunFacts) -> bool:
    """Return whether the distillation itself failed: other findings on the student would follow from that."""
    return bool(_learning_rate(facts, "distill") or other_teacher(facts))


def _too_short(facts: RunFacts, stage: str) -> bool:
    """Return whether a stage had too few steps: other findings on its model would follow from that."""
    return any(advice.change.startswith(f"set {stage}.") for advice in few_steps(facts))


def _name(facts: RunFacts, index: int) -> str:
    """Return the name of a class, shortened to fit a line."""
    return shortened(facts.classes[index], 40)


def _learned(seen: StageFacts) -> bool:
    return seen.labels_top1 is not None and seen.labels_top1 >= _LEARNED


def _at(curve: list[tuple[int, float]], epoch: float) -> tuple[int, float] | None:
    """Return the point of the curve nearest to an epoch, at most a quarter of it away; else None."""
    nearest = min(curve, key=lambda point: abs(point[0] - epoch))
    return nearest if abs(nearest[0] - epoch) <= epoch / 4 else None
