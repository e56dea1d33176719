"""The scores of a run's models, each with its protocol."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekit.abstention import FEWEST
from edgekit.answers import Answers
from edgekit.data.images import ImageSet
from edgekit.data.splits import Splits
from edgekit.errors import DataError, EdgekitError
from edgekit.models.store import load_classifier, load_pretrained
from edgekit.recipe import Recipe
from edgekit.result import Evaluation, ModelCalibration, Result, Score
from edgekit.run import Run, classifier_stages
from edgekit.shares import share_of
from edgekit.stages import MODEL_OF
from edgekit.tasks.calibration import calibration_error, fit_temperature, negative_log_likelihood, reliability
from edgekit.tasks.classification import CLASSIFICATION, LOGITS
from edgekit.train.evaluate.answers import answers_of
from edgekit.train.evaluate.features import apply, bank_name, bank_of, device_of, labels_of, outputs
from edgekit.train.evaluate.few_shot import DRAWS, few_shot_scores
from edgekit.train.evaluate.probes import KNN_TEMPERATURE, LINEAR, knn, knn_protocol, linear_probe, neighbors_for
from edgekit.train.records.inputs import require_current

LAST = "weights of the last epoch"


def top1(model: nn.Module, images: ImageSet, recipe: Recipe, device: torch.device) -> float:
    """Return the top-1 accuracy on labeled images."""
    logits = apply(model, images.images, recipe.data.mean, recipe.data.std, device, "test")
    return share(logits.argmax(1), labels_of(images))


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


def score_run(run: Run, splits: Splits, few_shot: Sequence[int] = (), draws: int = DRAWS) -> tuple[Evaluation, Answers]:
    """Return every score of a run's models on its test set, and the answers of its classifiers.

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
    mean, std = recipe.data.mean, recipe.data.std
    truth = labels_of(test)

    encoder = load_pretrained(run.stage_path("pretrain"), records["pretrain"].outputs).encoder
    bank = bank_of(splits, recipe)
    known, queries = (apply(encoder, s.images, mean, std, device, "features") for s in (bank, test))
    about = f"bank: {bank_name(splits)}, {len(bank)} images; {LAST}"
    protocols = {"knn": knn_protocol(len(bank), len(splits.classes)), "linear": LINEAR}
    scores = [
        Score(model="encoder", metric=metric, value=value, samples=len(test), protocol=f"frozen encoder, {protocols[metric]}; {about}")
        for metric, value in _probed(known, bank, queries, splits, knn_too=True, linear_too=True).items()
    ]  # fmt: skip
    scores += few_shot_scores(known, bank, queries, truth, splits.classes, few_shot, draws, recipe.seed, about)

    logits, calibrations = {}, []
    for name, stage in stages.items():
        classifier = load_classifier(run.stage_path(stage), records[stage].outputs)
        logits[name] = apply(classifier, test.images, mean, std, device, name)
        how = f"single center view, {LAST}{_chosen(run, stage)}"
        scores += classifier_scores(name, logits[name], truth, splits.classes, how)
        if len(splits.probe) >= FEWEST:
            probed = apply(classifier, splits.probe.images, mean, std, device, name)
            calibrations.append(calibration_of(name, probed, labels_of(splits.probe), logits[name], truth))
    data = f"{recipe.data.labeled or recipe.data.pool}: test set of {len(test)} images"
    evaluation = Evaluation(
        run=str(run.path), data=data, scores=scores, classes=splits.classes, calibrations=calibrations
    )
    return evaluation, answers_of(logits, test)


def calibration_of(model: str, probed: Tensor, labels: Tensor, tested: Tensor, truth: Tensor) -> ModelCalibration:
    """Set a temperature on the probe set and measure it on the test set.

    Args:
        model: its name.
        probed, labels: logits (n, classes) and classes (n) of the probe set.
        tested, truth: the same of the test set.
    """
    temperature = fit_temperature(probed.numpy(), labels.numpy())
    logits, classes = tested.numpy(), truth.numpy()
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
    """Return how the settings of a network from scratch were chosen, for the protocol."""
    record = run.record(stage)
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


def classifier_scores(name: str, logits: Tensor, truth: Tensor, classes: Sequence[str], protocol: str) -> list[Score]:
    """Return top-1 with accuracies per class and, with more than five classes, top-5, of logits (n, classes)."""
    outputs, labels = {LOGITS: logits.numpy()}, truth.numpy()
    values, each = CLASSIFICATION.score(outputs, labels), CLASSIFICATION.per_class(outputs, labels, classes)
    scores = [
        Score(model=name, metric=metric, value=value, samples=len(truth), protocol=protocol)
        for metric, value in values.items()
    ]
    scores[0].per_class = each
    return scores
