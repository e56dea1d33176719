"""Few-shot evaluation: the accuracy with K labeled images per class on a frozen encoder, over many seeded draws.

Each draw takes K labeled images of every class from the bank (all classes at once, not episodes of five classes) and classifies the
whole test set, on l2-normalized features, by the nearest centroid (SimpleShot, Wang et al. 2019, "L2N") and by logistic
regression (Tian et al. 2020). The draws are those of `edgekit.data.labels`: by content and seed, the same on every machine;
the images of a 1-shot draw are contained in its 5-shot draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgekit.data.images import ImageSet
from edgekit.data.labels import draw, shuffled
from edgekit.errors import DataError
from edgekit.progress import progress
from edgekit.result import Score
from edgekit.shares import share_of
from edgekit.text import counted
from edgekit.train.evaluate.blas import threads_for
from edgekit.train.evaluate.probes import expected_warnings_off

DRAWS = 100
_METHODS = {
    "centroid": "nearest centroid by cosine",
    "logistic": "logistic regression, L-BFGS, C = 1",
}


@dataclass(frozen=True)
class Shots:
    """Test accuracies (draws) of one method with `shots` images per class."""

    method: str
    shots: int
    accuracies: NDArray[np.float64]

    def interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the mean over the draws (Student's t), inside [0, 1]."""
        from scipy.stats import t

        mean, count = self.accuracies.mean(), len(self.accuracies)
        half = float(t.ppf(0.975, count - 1)) * self.accuracies.std(ddof=1) / math.sqrt(count)
        return max(0.0, float(mean - half)), min(1.0, float(mean + half))


def nearest_centroid(support: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
    """Return predictions (m): the class whose mean of the l2-normalized support features is nearest by cosine.

    Args:
        support: features (n, d) of at least one image per class.
        labels: int64 (n).
        queries: features (m, d).
        classes: number of classes.
    """
    sums = torch.zeros(classes, support.shape[1]).index_add_(0, labels, F.normalize(support.float(), dim=1))
    return (F.normalize(queries.float(), dim=1) @ F.normalize(sums, dim=1).T).argmax(1)


def logistic(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Return predictions (m) of a multinomial logistic regression on l2-normalized features (L-BFGS, C = 1)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0, max_iter=1000)
    with expected_warnings_off(), threads_for(support.numel() * (int(labels.max()) + 1)):
        model.fit(F.normalize(support.float(), dim=1).numpy(), labels.numpy())
    return torch.from_numpy(model.predict(F.normalize(queries.float(), dim=1).numpy()))


def few_shot(
    known: Tensor,
    bank: ImageSet,
    queries: Tensor,
    truth: Tensor,
    classes: Sequence[str],
    shots: Sequence[int],
    draws: int,
    seed: int,
) -> list[Shots]:
    """Return test accuracies of both methods for each number of shots.

    Args:
        known: features (n, d) of the bank, on the CPU.
        bank: n labeled images to draw the shots from.
        queries: features (m, d) of the test set.
        truth: their classes, int64 (m).
        classes: names.
        shots: K, each at least 1.
        draws: number of draws of K images per class, at least 2.
        seed: of the draws.

    Raises:
        DataError: a class of the bank has fewer than K images.
    """
    assert bank.labels is not None
    if not shots:
        return []
    counts = np.bincount(bank.labels, minlength=len(classes))
    fewest = int(counts.argmin())
    if max(shots) > counts[fewest]:
        raise DataError(
            f"--few-shot {max(shots)}: the class {classes[fewest]} has only {counted(counts[fewest], 'image')} in the labeled bank",
            "use fewer shots, or raise data.probe in the recipe and train again",
        )
    labels = torch.from_numpy(bank.labels)
    everything = np.ones(len(bank), dtype=bool)
    accuracies: dict[tuple[int, str], list[float]] = {(k, method): [] for k in shots for method in _METHODS}
    with progress("few-shot", draws * len(shots), unit="draws") as advance:
        for i in range(draws):
            order = shuffled(bank.names, bank.digests, f"few-shot draw {i}", seed)
            for k in shots:
                rows = torch.from_numpy(draw(order, bank.labels, [k] * len(classes), everything))
                support, support_labels = known[rows], labels[rows]
                for method, predicted in (
                    ("centroid", nearest_centroid(support, support_labels, queries, len(classes))),
                    ("logistic", logistic(support, support_labels, queries)),
                ):
                    accuracies[k, method].append(share_of(int((predicted == truth).sum()), len(truth)))
                advance(1)
    return [Shots(method, k, np.array(values)) for (k, method), values in accuracies.items()]


def few_shot_scores(
    known: Tensor,
    bank: ImageSet,
    queries: Tensor,
    truth: Tensor,
    classes: Sequence[str],
    shots: Sequence[int],
    draws: int,
    seed: int,
    about: str,
) -> list[Score]:
    """Return `few_shot` as scores: the mean over the draws, its interval, and the protocol, which ends with `about`."""
    scores = []
    for result in few_shot(known, bank, queries, truth, classes, shots, draws, seed):
        protocol = (
            f"frozen encoder, {len(classes)}-way {result.shots}-shot, {_METHODS[result.method]}, l2-normalized features; "
            f"mean and 95 % interval over {draws} draws, seed {seed}; {about}"
        )
        scores.append(
            Score(
                model="encoder",
                metric=result.method,
                value=float(result.accuracies.mean()),
                samples=len(truth),
                protocol=protocol,
                shots=result.shots,
                interval=result.interval(),
            )
        )
    return scores
