"""Evaluation: accuracy, kNN and linear probe, each number with the protocol that it was measured by."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.data.images import ImageSet
from edgekit.data.splits import Splits
from edgekit.errors import DataError
from edgekit.models.pixels import normalise
from edgekit.models.store import load_classifier, load_pretrained
from edgekit.progress import progress
from edgekit.recipe import Recipe
from edgekit.result import Evaluation, Score
from edgekit.run import Run
from edgekit.train.inputs import require_current

_BATCH = 500
KNN_NEIGHBOURS = 200
KNN_TEMPERATURE = 0.1
_LAST = "weights of the last epoch"


def apply(
    model: nn.Module,
    images: NDArray[np.uint8],
    mean: float,
    std: float,
    device: torch.device,
    title: str = "",
) -> Tensor:
    """A model's outputs for uint8 images (n, s, s, 3), in evaluation mode and float32, on the CPU: (n, d).

    The model is left in the mode that it came in, on `device`.
    """
    was_training = model.training
    model.eval().to(device)
    outputs = []
    with torch.inference_mode(), progress(title, len(images), unit="images") as advance:
        for start in range(0, len(images), _BATCH):
            pixels = torch.tensor(images[start : start + _BATCH], device=device)
            outputs.append(model(normalise(pixels, mean, std)).float().cpu())
            advance(len(pixels))
    model.train(was_training)
    return torch.cat(outputs)


def knn(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, classes: int, neighbours: int, temperature: float
) -> Tensor:
    """Predictions (m) of the weighted k-nearest-neighbour classifier of InstDisc (Wu et al. 2018, section 3.4).

    Args:
        bank: features (n, d) with labels (n).
        bank_labels: int64 (n).
        queries: features (m, d).
        classes: number of classes.
        neighbours: k <= n.
        temperature: each neighbour votes with exp(cosine / temperature).
    """
    bank, predictions = F.normalize(bank.float(), dim=1), []
    for part in F.normalize(queries.float(), dim=1).split(_BATCH):
        similarities, indexes = (part @ bank.T).topk(neighbours, dim=1)
        votes = torch.zeros(len(part), classes)
        votes.scatter_add_(1, bank_labels[indexes], ((similarities - 1) / temperature).exp())
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)


def linear_probe(bank: Tensor, bank_labels: Tensor, queries: Tensor) -> Tensor:
    """Predictions (m) of a multinomial logistic regression on frozen, standardised features (L-BFGS, C = 1, 1000 iterations)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    probe.fit(bank.numpy(), bank_labels.numpy())
    return torch.from_numpy(probe.predict(queries.numpy()))


def top1(model: nn.Module, images: ImageSet, recipe: Recipe, device: torch.device) -> float:
    """Share of the images whose label is the model's first choice."""
    logits = apply(model, images.images, recipe.data.mean, recipe.data.std, device)
    return (logits.argmax(1) == labels_of(images)).float().mean().item()


def encoder_knn(encoder: nn.Module, splits: Splits, recipe: Recipe, device: torch.device) -> float:
    """kNN accuracy of a frozen encoder on the test set (protocol: `knn_protocol`)."""
    bank = bank_of(splits, recipe)
    data = recipe.data
    predicted = knn(
        apply(encoder, bank.images, data.mean, data.std, device), labels_of(bank),
        apply(encoder, splits.test.images, data.mean, data.std, device),
        len(splits.classes), neighbours_for(len(bank), len(splits.classes)), KNN_TEMPERATURE,
    )  # fmt: skip
    return (predicted == labels_of(splits.test)).float().mean().item()


def neighbours_for(bank: int, classes: int) -> int:
    """k: 200, or half of a class's share of a small bank (a k beyond a class's images lets the others outvote it)."""
    return min(KNN_NEIGHBOURS, max(1, bank // (2 * classes)))


def device_of(recipe: Recipe) -> torch.device:
    """Where models are applied: a CUDA GPU where there is one and the recipe lets it be used, else the CPU."""
    gpu = recipe.hardware.accelerator in {"auto", "gpu"} and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def bank_of(splits: Splits, recipe: Recipe) -> ImageSet:
    """Labelled images for kNN and linear probe: the probe set, which no training saw; without one, the label budget."""
    if len(splits.probe):
        return splits.probe
    preprocessing = recipe.data.preprocessing()
    return splits.labelled.centre_crop(preprocessing.image_size)


def labels_of(images: ImageSet) -> Tensor:
    """int64 (n)."""
    assert images.labels is not None
    return torch.from_numpy(images.labels)


def evaluate(run: Run, splits: Splits) -> Evaluation:
    """Every number about a run's models on its test set.

    Raises:
        RunError: a stage is not complete, damaged, or made from another recipe or other images.
        DataError: the test set is empty.
    """
    recipe, test = run.recipe, splits.test
    device = device_of(recipe)
    stages = {"teacher": "finetune", "student": "distill"} | (
        {"supervised": "supervised"} if recipe.supervised.enabled else {}
    )
    require_current(["data", "pretrain", *stages.values()], recipe, splits, run)
    if not len(test):
        raise DataError(f"{run.path}: the test set is empty")
    mean, std = recipe.data.mean, recipe.data.std
    truth, scores = labels_of(test), []

    def share(predicted: Tensor) -> float:
        return (predicted == truth).float().mean().item()

    encoder = load_pretrained(run.stage_path("pretrain")).encoder
    bank = bank_of(splits, recipe)
    bank_name = "probe set (not in the pool)" if len(splits.probe) else "label budget"
    known, queries = (apply(encoder, s.images, mean, std, device, "features") for s in (bank, test))
    k = neighbours_for(len(bank), len(splits.classes))
    for metric, predicted, how in (
        (
            "knn",
            knn(known, labels_of(bank), queries, len(splits.classes), k, KNN_TEMPERATURE),
            f"k = {k}, cosine, T = {KNN_TEMPERATURE}",
        ),
        (
            "linear",
            linear_probe(known, labels_of(bank), queries),
            "logistic regression on standardised features, L-BFGS, C = 1",
        ),
    ):
        protocol = f"frozen encoder, {how}; bank: {bank_name}, {len(bank)} images; {_LAST}"
        scores.append(
            Score(model="encoder", metric=metric, value=share(predicted), samples=len(test), protocol=protocol)
        )

    for name, stage in stages.items():
        logits = apply(load_classifier(run.stage_path(stage)), test.images, mean, std, device, name)
        scores.extend(_accuracy(name, logits, truth, splits.classes))
    return Evaluation(run=str(run.path), data=f"{recipe.data.labelled}: test set of {len(test)} images", scores=scores)


def _accuracy(name: str, logits: Tensor, truth: Tensor, classes: list[str]) -> list[Score]:
    right = logits.argmax(1) == truth
    per_class = {c: right[truth == i].float().mean().item() for i, c in enumerate(classes) if (truth == i).any()}
    protocol = f"single centre view, {_LAST}"
    scores = [
        Score(
            model=name,
            metric="top1",
            value=right.float().mean().item(),
            samples=len(truth),
            protocol=protocol,
            per_class=per_class,
        )
    ]
    if len(classes) > 5:
        five = (logits.topk(5, dim=1).indices == truth[:, None]).any(dim=1).float().mean().item()
        scores.append(Score(model=name, metric="top5", value=five, samples=len(truth), protocol=protocol))
    return scores
