"""Classifiers on frozen features: weighted k nearest neighbors and the linear probe."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.train.evaluate.blas import threads_for
from edgekit.train.evaluate.features import BATCH

KNN_NEIGHBORS = 200
KNN_TEMPERATURE = 0.1
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
    bank, predictions = F.normalize(bank.float(), dim=1), []
    for part in F.normalize(queries.float(), dim=1).split(BATCH):
        similarities, indexes = (part @ bank.T).topk(neighbors, dim=1)
        votes = torch.zeros(len(part), classes, device=bank.device)
        votes.scatter_add_(1, bank_labels[indexes], ((similarities - 1) / temperature).exp())
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)


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


def linear_model(bank: Tensor, bank_labels: Tensor, c: float = 1.0) -> tuple[Any, Any]:
    """Fit the parts of the linear probe: scikit-learn's StandardScaler and LogisticRegression, to features (n, d) on the CPU."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler, regression = StandardScaler().fit(bank.numpy()), LogisticRegression(C=c, max_iter=1000)
    classes = int(bank_labels.max()) + 1
    with warnings.catch_warnings(), threads_for(bank.numel() * classes):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the protocol names the limit
        regression.fit(scaler.transform(bank.numpy()), bank_labels.numpy())
    return scaler, regression
