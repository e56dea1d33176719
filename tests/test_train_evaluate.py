"""kNN against a naive version, the linear probe on what is and is not separable, and the protocol beside every number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgekit.train.evaluate import knn, linear_probe, neighbours_for


def naive_knn(
    bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int, k: int, temperature: float
) -> list[int]:
    """InstDisc's section 3.4, one query at a time."""
    predictions = []
    for query in queries:
        cosines = [float(b @ query / (np.linalg.norm(b) * np.linalg.norm(query))) for b in bank]
        votes = [0.0] * classes
        for i in sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]:
            votes[labels[i]] += math.exp(cosines[i] / temperature)
        predictions.append(int(np.argmax(votes)))
    return predictions


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.1), (30, 1.0)])
def test_knn_equals_the_naive_version(k: int, temperature: float) -> None:
    rng = np.random.default_rng(0)
    bank, queries, labels = rng.normal(size=(60, 8)), rng.normal(size=(25, 8)), rng.integers(0, 4, 60)
    ours = knn(torch.from_numpy(bank), torch.from_numpy(labels), torch.from_numpy(queries), 4, k, temperature)
    assert ours.tolist() == naive_knn(bank, labels, queries, 4, k, temperature)


def test_neighbours_are_two_hundred_or_half_a_class_of_a_small_bank() -> None:
    assert [neighbours_for(n, 10) for n in (50_000, 4000, 180, 12)] == [200, 200, 9, 1]


def test_the_linear_probe_separates_what_is_linear_and_not_what_is_random() -> None:
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    centres = 5 * torch.randn(3, 10)
    features = centres[labels] + torch.randn(300, 10)
    assert (linear_probe(features[:200], labels[:200], features[200:]) == labels[200:]).float().mean() > 0.95
    noise = torch.randn(300, 10)
    assert (linear_probe(noise[:200], labels[:200], noise[200:]) == labels[200:]).float().mean() < 0.55
