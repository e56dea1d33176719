"""A linear classifier on the features of the frozen encoder: the start of fine-tuning, and its baseline."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekit.models.classifier import Classifier
from edgekit.train.evaluate import linear_model, linear_models

_ABSENT = 10.0  # a class without labels gets a bias this far below all others: a factor of exp(-10)


def fit_linear(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return weight (classes, d) and bias (classes) of the linear probe (`edgekit.train.evaluate.linear_probe`) on these features.

    The probe standardizes the features; here that is folded into weight and bias, so that they apply to the features as they
    are. Two classes, for which scikit-learn fits one logit, get half of it each. A class without a label gets no weight and
    a bias below all others.

    Args:
        features: (n, d), on the CPU.
        labels: int64 (n), at least two different ones; where images have several classes, (n, classes) of 0 and 1.
        classes: number of classes.

    Returns:
        float32 tensors.
    """
    if labels.ndim == 2:
        of_each, biases = linear_models(features, labels)
        return of_each.float(), biases.float()
    scaler, regression = linear_model(features, labels)
    coefficients, intercepts, mean, scale = (
        torch.from_numpy(values).double()
        for values in (regression.coef_, regression.intercept_, scaler.mean_, scaler.scale_)
    )
    if len(coefficients) == 1:
        coefficients, intercepts = (torch.cat([-values / 2, values / 2]) for values in (coefficients, intercepts))
    known = torch.from_numpy(regression.classes_)
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64)
    weight[known] = coefficients / scale
    bias = torch.full((classes,), float(intercepts.min()) - _ABSENT, dtype=torch.float64)
    bias[known] = intercepts
    bias -= weight @ mean
    return weight.float(), bias.float()


@torch.no_grad()
def start_from_probe(model: Classifier, features: Tensor, labels: Tensor) -> None:
    """Set a classifier's last layer to the linear probe on `features` (n, d), its own embeddings of the labeled images."""
    if labels.ndim == 1 and len(labels.unique()) < 2:
        return
    weight, bias = fit_linear(features, labels, len(model.classes))
    model.head.weight.copy_(weight)
    model.head.bias.copy_(bias)


class EmbeddingPart(nn.Module):
    """A classifier without its last layer.

    Args:
        model: the classifier.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the inputs (n, d) of the last layer for normalized images (n, 3, h, w)."""
        return self.model.embed(images)
