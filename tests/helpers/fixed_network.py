"""A network for scikit-learn's digits whose weights are the same on every machine: nothing about it is trained step by step.

The convolutions are drawn at random, and the linear layer is the ridge regression over what they give, solved in float64. Whatever the
threads and the CPU, its weights are the same but for the last bit.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.export.verify import ReferenceOutputs, runner
from edgekit.models.pixels import PixelClassifier, normalize
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers import exported

_WIDTH, _LAYERS = 16, 7
_CLEAR = 200  # of the test images: those that it decides most clearly


class FixedNetwork(nn.Module):
    """Convolutions with ReLU between them, the first and the last of stride 2, and a linear layer: about 95 % on the test set."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(0)
        sizes = [(3, 2), *[(_WIDTH, 1)] * (_LAYERS - 2), (_WIDTH, 2)]
        self.layers = nn.ModuleList(nn.Conv2d(channels, _WIDTH, 3, stride, 1) for channels, stride in sizes)
        self.head = nn.Linear(_WIDTH * 16, 10)
        for layer in self.layers:
            shape = tuple(layer.weight.shape)
            _set(layer.weight, random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape))
            _set(layer.bias, random.normal(0, 0.1, _WIDTH))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            images = nn.functional.relu(layer(images))
        return images.flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


def _set(parameter: nn.Parameter, values: NDArray[np.float64]) -> None:
    parameter.data = torch.from_numpy(values.astype(np.float32))


@cache
def fixed_network() -> PixelClassifier:
    """The network, from pixels to logits."""
    images = exported.splits().labeled.center_crop(16)
    assert images.labels is not None
    network = FixedNetwork().double()
    with torch.no_grad():
        pixels = normalize(torch.from_numpy(images.images.copy()), 0.5, 0.25)
        features = network.features(pixels.double()).numpy()
    rows = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    gram = rows.T @ rows
    ridge = 1e-2 * np.trace(gram) / len(gram) * np.eye(len(gram))
    solved = np.linalg.solve(gram + ridge, rows.T @ np.eye(10)[images.labels])
    network = network.float()
    _set(network.head.weight, solved[:-1].T)
    _set(network.head.bias, solved[-1])
    return PixelClassifier(network.eval(), 0.5, 0.25).eval()


@cache
def clear_reference() -> ReferenceOutputs:
    """Its answers to the test images that it decides most clearly, which count as their classes.

    Its best logit is ahead of the next by half the distance between two classes there, ten times what sound INT8 changes.
    """
    run, images = runner(fixed_network(), CLASSIFICATION), exported.splits().test.images
    logits = run(images)["logits"]
    best, next_best = np.sort(logits, axis=1).T[[-1, -2]]
    clear = np.sort(np.argsort(next_best - best, kind="stable")[:_CLEAR])
    return ReferenceOutputs.of(CLASSIFICATION, run, images[clear], logits[clear].argmax(1))
