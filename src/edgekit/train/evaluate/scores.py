"""The scores of a run's models, each with its protocol."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekit.abstention import DISTANCE, FALSE_ABSTAIN, FEWEST
from edgekit.answers import Answers
from edgekit.data.images import ImageSet
from edgekit.data.splits import Splits
from edgekit.errors import DataError, EdgekitError
from edgekit.models.classifier import Classifier
from edgekit.models.store import load_classifier, load_pretrained
from edgekit.recipe import Recipe
from edgekit.result import Evaluation, ModelCalibration, Result, Score
from edgekit.run import Run, classifier_stages, scored_digests
from edgekit.shares import share_of
from edgekit.stages import MODEL_OF
from edgekit.tasks import Task
from edgekit.tasks.calibration import calibration_error, negative_log_likelihood, reliability, temperature_for
from edgekit.tasks.classification import CLASSIFICATION, LOGITS
from edgekit.tasks.multilabel import F1_MACRO, F1_MICRO, MULTILABEL
from edgekit.tasks.multilabel_metrics import (
    binary_cross_entropy,
    class_wise_error,
    f1_scores,
    mean_average_precision,
    sigmoid,
    sigmoid_temperature_for,
)
from edgekit.tasks.unknown import Known
from edgekit.text import counted
from edgekit.train.evaluate.answers import answers_of
from edgekit.train.evaluate.features import apply, bank_name, bank_of, device_of, labels_of, outputs
from edgekit.train.evaluate.few_shot import DRAWS, few_shot_scores
from edgekit.train.evaluate.probes import (
    KNN_TEMPERATURE,
    LINEAR,
    knn,
    knn_protocol,
    knn_shares,
    linear_logits,
    linear_probe,
    neighbors_for,
)
from edgekit.train.objective import objective_of
from edgekit.train.records.inputs import require_current

LAST = "weights of the last epoch"


def quality_on(model: nn.Module, images: ImageSet, recipe: Recipe, device: torch.device) -> float:
    """Return the metric that counts in the recipe's task, on labeled images: of a classification the top-1 accuracy."""
    logits = apply(model, images.images, recipe.data.mean, recipe.data.std, device, "test")
    return objective_of(recipe).quality(logits, labels_of(images))


def encoder_scores(
    encoder: nn.Module,
    splits: Splits,
    recipe: Recipe,
    device: torch.device,
    *,
    knn_too: bool = True,
    linear_too: bool = False,
    title: str = "",
) -> dict[str, float]:
    """Return the accuracies of a frozen encoder on the test set, by `knn` and `linear`; features are computed once, on `device`.

    Where images have several classes, these are mAP.

    `score_run` computes the scores of a run's encoder in the same way (`_probed`).

    Args:
        encoder: maps normalized images to features.
        splits: the bank is `bank_of(splits, recipe)`.
        recipe: for the normalization.
        device: where the features are computed and compared.
        knn_too: also weighted k nearest neighbors (`edgekit.train.evaluate.knn`).
        linear_too: also a logistic regression, on the CPU (`edgekit.train.evaluate.linear_probe`).
        title: of the progress, or "".
    """
    bank, data = bank_of(splits, recipe), recipe.data
    known = outputs(encoder, bank.images, data.mean, data.std, device, title)
    queries = outputs(encoder, splits.test.images, data.mean, data.std, device, title)
    return _probed(known, bank, queries, splits, knn_too=knn_too, linear_too=linear_too)


def _probed(
    known: Tensor, bank: ImageSet, queries: Tensor, splits: Splits, *, knn_too: bool, linear_too: bool
) -> dict[str, float]:
    """Return accuracies on the test set, from the features of the bank (n, d) and of the test set (m, d), on any device."""
    labels, truth, classes = labels_of(bank), labels_of(splits.test), len(splits.classes)
    accuracies = {}
    if labels.ndim == 2:
        k = neighbors_for(len(bank), 1)
        if knn_too:
            shares = knn_shares(known, labels.to(known.device), queries, k, KNN_TEMPERATURE)
            accuracies["knn"] = mean_average_precision(shares.cpu().numpy(), truth.numpy())
        if linear_too:
            logits = linear_logits(known.cpu(), labels, queries.cpu())
            accuracies["linear"] = mean_average_precision(logits.numpy(), truth.numpy())
        return accuracies
    if knn_too:
        k = neighbors_for(len(bank), classes)
        predicted = knn(known, labels.to(known.device), queries, classes, k, KNN_TEMPERATURE)
        accuracies["knn"] = share(predicted.cpu(), truth)
    if linear_too:
        accuracies["linear"] = share(linear_probe(known.cpu(), labels, queries.cpu()), truth)
    return accuracies


def encoder_knn(encoder: nn.Module, splits: Splits, recipe: Recipe, device: torch.device) -> float:
    """Return the kNN accuracy of a frozen encoder on the test set."""
    return encoder_scores(encoder, splits, recipe, device, title="kNN")["knn"]


def share(predicted: Tensor, truth: Tensor) -> float:
    """Return the accuracy of predicted classes (n) against the true ones (n)."""
    return share_right(predicted == truth)


def share_right(right: Tensor) -> float:
    """Return the share of True among bools (n): counted, because the mean of float32 is a float32."""
    return share_of(int(right.sum()), right.numel())


def score_run(
    run: Run, splits: Splits, few_shot: Sequence[int] = (), draws: int = DRAWS
) -> tuple[Evaluation, Answers | None, Classifier | None]:
    """Return every score of a run's models on its test set, the answers of its classifiers (None where images have several classes), and its
    student, if it has one.

    Args:
        run: with complete stages.
        splits: of its recipe.
        few_shot: numbers of images per class to learn from (`edgekit.train.evaluate.few_shot`); none by default.
        draws: number of draws of those images.

    Raises:
        RunError: a stage is not complete, damaged, or made from another recipe or other images.
        DataError: the test set is empty, or a class has fewer labeled images than `few_shot` asks for.
    """
    recipe, test = run.recipe, splits.test
    device = device_of(recipe)
    stages = {MODEL_OF[stage]: stage for stage in classifier_stages(recipe)}
    records = require_current(["data", "pretrain", *stages.values()], recipe, splits, run)
    if not len(test):
        raise DataError(f"{run.path}: the test set is empty", "label some held-out images, or set data.test")
    objective = objective_of(recipe)
    if few_shot and not objective.one_class:
        raise DataError(
            f"--few-shot: draws images of one class each, and this run is of the task {objective.task.name}",
            "leave it out",
        )
    mean, std = recipe.data.mean, recipe.data.std
    truth = labels_of(test)

    encoder = load_pretrained(run.stage_path("pretrain"), records["pretrain"].outputs).encoder
    bank = bank_of(splits, recipe)
    known, queries = (apply(encoder, s.images, mean, std, device, "features") for s in (bank, test))
    about = f"bank: {bank_name(splits)}, {counted(len(bank), 'image')}; {LAST}"
    protocols = {"knn": knn_protocol(len(bank), len(splits.classes)), "linear": LINEAR}
    if not objective.one_class:
        protocols = {"knn": f"mAP; {knn_protocol(len(bank), 1)}", "linear": f"mAP; for each class {LINEAR}"}
    scores = [
        Score(model="encoder", metric=metric, value=value, samples=len(test), protocol=f"frozen encoder, {protocols[metric]}; {about}")
        for metric, value in _probed(known, bank, queries, splits, knn_too=True, linear_too=True).items()
    ]  # fmt: skip
    scores += few_shot_scores(known, bank, queries, truth, splits.classes, few_shot, draws, recipe.seed, about)

    logits, calibrations, student = {}, [], None
    for name, stage in stages.items():
        classifier = load_classifier(run.stage_path(stage), records[stage].outputs)
        student = classifier if name == "student" else student
        logits[name] = apply(classifier, test.images, mean, std, device, name)
        how = f"single center view, {LAST}{_chosen(run, stage)}"
        probed = None
        if len(splits.probe) >= FEWEST:
            probed = apply(classifier, splits.probe.images, mean, std, device, name), labels_of(splits.probe)
            calibrations.append(calibration_of(name, *probed, logits[name], truth))
        scores += classifier_scores(name, logits[name], truth, splits.classes, how, objective.task)
        if not objective.one_class:
            _with_thresholds(scores, name, logits[name], truth, probed)
    data = recipe.data.test_set(len(test))
    evaluation = Evaluation(
        run=str(run.path), data=data, scores=scores, classes=splits.classes, calibrations=calibrations,
        task=objective.task.name, digests=scored_digests(records),
        guessing=share_of(int(truth.bincount().max()), len(truth)) if objective.one_class else None,
    )  # fmt: skip
    temperatures = {found.model: found.temperature for found in calibrations}
    return evaluation, answers_of(logits, test, temperatures) if objective.one_class else None, student


def _with_thresholds(
    scores: list[Score], name: str, logits: Tensor, truth: Tensor, probed: tuple[Tensor, Tensor] | None
) -> None:
    """Replace F1 with the threshold 0.5 by F1 with thresholds that were set on the probe set; the protocol says which one it is."""
    found = None
    if probed is not None:
        outputs, labels = {LOGITS: probed[0].numpy()}, probed[1].numpy()
        found = MULTILABEL.calibrated(outputs, labels, DISTANCE, FALSE_ABSTAIN, None, "probe images")
    for score in scores:
        if score.model != name or score.metric not in {F1_MICRO, F1_MACRO}:
            continue
        if found is None:
            score.protocol = f"threshold 0.5 for every class; {score.protocol}"
            continue
        decided = MULTILABEL.decisions({LOGITS: logits.numpy()}, Known(found))
        micro, macro = f1_scores(decided, truth.numpy())
        score.value = micro if score.metric == F1_MICRO else macro
        score.protocol = f"thresholds of the highest F1 on the probe set; {score.protocol}"


def calibration_of(model: str, probed: Tensor, labels: Tensor, tested: Tensor, truth: Tensor) -> ModelCalibration:
    """Set a temperature on the probe set and measure it on the test set.

    Where images have several classes, labels are (n, classes) of 0 and 1, the errors are those of the sigmoids: the class-wise calibration error,
    and the binary cross-entropy.

    Args:
        model: its name.
        probed, labels: logits (n, classes) and classes (n) of the probe set.
        tested, truth: the same of the test set.
    """
    logits, classes = tested.numpy(), truth.numpy()
    if labels.ndim == 2:
        temperature = sigmoid_temperature_for(probed.numpy(), labels.numpy())
        return ModelCalibration(
            model=model,
            temperature=temperature,
            probe=len(labels),
            samples=len(truth),
            ece=(class_wise_error(sigmoid(logits), classes), class_wise_error(sigmoid(logits / temperature), classes)),
            nll=(binary_cross_entropy(logits, classes), binary_cross_entropy(logits, classes, temperature)),
        )
    temperature = temperature_for(probed.numpy(), labels.numpy())
    before, after = (calibration_error(reliability(logits, classes, t)) for t in (1.0, temperature))
    return ModelCalibration(
        model=model,
        temperature=temperature,
        probe=len(labels),
        samples=len(truth),
        ece=(before, after),
        nll=(negative_log_likelihood(logits, classes), negative_log_likelihood(logits, classes, temperature)),
    )


def _chosen(run: Run, stage: str) -> str:
    """Return how the settings of a network from scratch were chosen, and whether a linear probe took the teacher's place, for the protocol."""
    record = run.record(stage)
    if record is not None and record.stored_probe:
        return "; the linear probe on the frozen encoder, which was better than the fine-tuned network"
    tried = record.metrics.get("search") if record is not None else None
    return f"; best of {len(tried)} settings on the probe set" if isinstance(tried, list) and len(tried) > 1 else ""


def with_earlier_few_shot(measured: Evaluation, path: Path) -> Evaluation:
    """Add the few-shot scores of an earlier evaluation of the same encoder that were not measured again.

    The encoder is the same if all its other scores agree: as many of as many images are right, and the protocols have the same numbers
    (neighbors, images of the bank, …); their wording may be another version's.

    Args:
        measured: the new evaluation.
        path: the earlier result file, which may be missing, damaged, or of another encoder.
    """
    try:
        earlier = Result.read(path).measurement
    except EdgekitError:
        return measured
    if not isinstance(earlier, Evaluation) or _of_encoder(earlier) != _of_encoder(measured):
        return measured
    remeasured = {s.shots for s in measured.scores}
    earlier_shots = [s for s in earlier.scores if s.shots is not None and s.shots not in remeasured]
    shots = sorted([s for s in measured.scores if s.shots is not None] + earlier_shots, key=lambda s: s.shots or 0)
    plain = [s for s in measured.scores if s.shots is None]
    count = len(_of_encoder(measured))
    return measured.model_copy(update={"scores": [*plain[:count], *shots, *plain[count:]]})


def _of_encoder(evaluation: Evaluation) -> list[tuple[str, int, int, list[str]]]:
    """Metric, images, how many of them are right, and the protocol's numbers. Counts, since older results hold shares as float32."""
    scores = [s for s in evaluation.scores if s.model == "encoder" and s.shots is None]
    return [(s.metric, s.samples, round(s.value * s.samples), re.findall(r"[\d.]*\d", s.protocol)) for s in scores]


def per_class(predicted: Tensor, truth: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Return the accuracy on each class that has test images."""
    right = predicted == truth
    return {c: share_right(right[truth == i]) for i, c in enumerate(classes) if (truth == i).any()}


def classifier_scores(
    name: str, logits: Tensor, truth: Tensor, classes: Sequence[str], protocol: str, task: Task = CLASSIFICATION
) -> list[Score]:
    """Return a task's metrics of logits (n, classes), the first with that of each class: of a classification top-1 and, with more than five
    classes, top-5."""
    outputs, labels = {LOGITS: logits.numpy()}, truth.numpy()
    values, each = task.score(outputs, labels), task.per_class(outputs, labels, classes)
    scores = [
        Score(model=name, metric=metric, value=value, samples=len(truth), protocol=protocol)
        for metric, value in values.items()
    ]
    scores[0].per_class = each
    return scores
