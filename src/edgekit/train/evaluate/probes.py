"""Classifiers on frozen features: weighted k nearest neighbors and the linear probe."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.train.evaluate.blas import threads_for
from edgekit.train.evaluate.features import BATCH

KNN_NEIGHBORS = 200
KNN_TEMPERATURE = 0.1
_CERTAIN = 10.0  # a logit, exp(-10) from certain
LINEAR = "logistic regression on standardized features, L-BFGS, C = 1"


def knn(bank: Tensor, bank_labels: Tensor, queries: Tensor, classes: int, neighbors: int, temperature: float) -> Tensor:
    """Return predictions (m) of the weighted k-nearest-neighbor classifier of InstDisc (Wu et al. 2018, section 3.4).

    Args:
        bank: features (n, d) with labels (n).
        bank_labels: int64 (n), on the features' device.
        queries: features (m, d), on the same device.
        classes: number of classes.
        neighbors: k <= n.
        temperature: each neighbor votes with exp(cosine / temperature).
    """
    predictions = []
    for votes, nearest in _votes(bank, queries, neighbors, temperature):
        of_classes = torch.zeros(len(votes), classes, device=votes.device)
        predictions.append(of_classes.scatter_add_(1, bank_labels[nearest], votes).argmax(dim=1))
    return torch.cat(predictions)


def knn_shares(bank: Tensor, bank_labels: Tensor, queries: Tensor, neighbors: int, temperature: float) -> Tensor:
    """Return for images with several classes the weighted share (m, k) of the nearest neighbors that have each class; see `knn`.

    Args:
        bank: features (n, d).
        bank_labels: (n, k) of 0 and 1, on the features' device.
        queries: features (m, d), on the same device.
        neighbors: at most n.
        temperature: each neighbor votes with exp(cosine / temperature).
    """
    labels = bank_labels.float()
    found = _votes(bank, queries, neighbors, temperature)
    return torch.cat([torch.einsum("mn,mnk->mk", votes, labels[nearest]) for votes, nearest in found])


def _votes(bank: Tensor, queries: Tensor, neighbors: int, temperature: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, in batches of queries, the votes (m, neighbors) of each one's nearest neighbors, which sum to 1, and their rows in the bank."""
    bank = F.normalize(bank.float(), dim=1)
    for part in F.normalize(queries.float(), dim=1).split(BATCH):
        similarities, nearest = (part @ bank.T).topk(neighbors, dim=1)
        yield (similarities / temperature).softmax(1), nearest


def neighbors_for(bank: int, classes: int) -> int:
    """Return k: 200, or for a small bank half the images per class (with a larger k, other classes would outvote a class)."""
    return min(KNN_NEIGHBORS, max(1, bank // (2 * classes)))


def knn_protocol(bank: int, classes: int) -> str:
    """Return the protocol of the kNN accuracy."""
    return f"k = {neighbors_for(bank, classes)}, cosine, T = {KNN_TEMPERATURE}"


def linear_probe(bank: Tensor, bank_labels: Tensor, queries: Tensor, c: float = 1.0) -> Tensor:
    """Return predictions (m) of a multinomial logistic regression on frozen, standardized features (L-BFGS, at most 1000 iterations).

    Args:
        bank: features (n, d) with labels (n), on the CPU.
        bank_labels: int64 (n).
        queries: features (m, d), on the CPU.
        c: scikit-learn's C, the inverse of the weight of the squared l2 penalty against the sum of the losses.
    """
    scaler, regression = linear_model(bank, bank_labels, c)
    return torch.from_numpy(regression.predict(scaler.transform(queries.numpy())))


def linear_logits(bank: Tensor, bank_labels: Tensor, queries: Tensor) -> Tensor:
    """Return logits (m, k) of the linear probe for images with several classes: a logistic regression for each class (`linear_models`)."""
    weight, bias = linear_models(bank, bank_labels)
    return (queries.double() @ weight.T + bias).float()


def linear_models(bank: Tensor, bank_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (k, d) and bias (k) of a logistic regression for each class, on features as they are; see `linear_model`.

    A class that all images have, or none, gets no weight and a bias of +-`_CERTAIN`.

    Args:
        bank: features (n, d), on the CPU.
        bank_labels: (n, k) of 0 and 1.

    Returns:
        float64 tensors.
    """
    classes, width = bank_labels.shape[1], bank.shape[1]
    weight = torch.zeros(classes, width, dtype=torch.float64)
    bias = torch.where(bank_labels.sum(0) > 0, _CERTAIN, -_CERTAIN).double()
    for c in range(classes):
        if len(bank_labels[:, c].unique()) < 2:
            continue
        scaler, regression = linear_model(bank, bank_labels[:, c])
        weight[c] = torch.from_numpy(regression.coef_[0] / scaler.scale_)
        bias[c] = float(regression.intercept_[0]) - float(weight[c] @ torch.from_numpy(scaler.mean_).double())
    return weight, bias


@contextmanager
def expected_warnings_off() -> Iterator[None]:
    """Turn off scikit-learn's warnings about what is meant: a limit of iterations, which the protocol names, and few images of many classes."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        yield


def linear_model(bank: Tensor, bank_labels: Tensor, c: float = 1.0) -> tuple[Any, Any]:
    """Fit the parts of the linear probe: scikit-learn's StandardScaler and LogisticRegression, to features (n, d) on the CPU."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler, regression = StandardScaler().fit(bank.numpy()), LogisticRegression(C=c, max_iter=1000)
    classes = int(bank_labels.max()) + 1
    with expected_warnings_off(), threads_for(bank.numel() * classes):
        regression.fit(scaler.transform(bank.numpy()), bank_labels.numpy())
    return scaler, regression
