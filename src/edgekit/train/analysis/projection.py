"""Features in two dimensions and in clusters, for visualization."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.progress import Advance, progress

_COMPONENTS = 50
_ITERATIONS = 1000
_FEW = 10  # with fewer images, t-SNE has no neighborhoods to preserve
_TRIES = 3


@dataclass(frozen=True)
class Projection:
    """A map of images.

    Args:
        positions: (n, 2) float32.
        method: description of the method.
    """

    positions: NDArray[np.float32]
    method: str


def project(features: NDArray[np.float32], seed: int) -> Projection:
    """Compute a map of l2-normalized features (n, d): PCA to 50 dimensions, then t-SNE (van der Maaten & Hinton 2008).

    With fewer than ten images, it is the first two principal components. The result is seeded; with several threads, another order of
    sums can still move the points.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count, width = features.shape
    components = min(_COMPONENTS, count, width)
    reduced = PCA(components, random_state=seed).fit_transform(features)
    if count < _FEW or components < 2:
        positions = np.zeros((count, 2), dtype=np.float32)
        positions[:, : min(2, components)] = reduced[:, :2]
        return Projection(positions, "first two principal components of the l2-normalized features")
    perplexity = min(30.0, (count - 1) / 3)
    how = (
        f"t-SNE of the first {components} principal components of the l2-normalized features, "
        f"perplexity {perplexity:g}, {_ITERATIONS} iterations, seed {seed}"
    )
    if not np.ptp(reduced, axis=0).any():  # all features are equal: nothing to lay out
        return Projection(np.zeros((count, 2), dtype=np.float32), how)
    with progress("map", _ITERATIONS, unit="iterations") as advance, _reported(advance):
        tsne = TSNE(2, perplexity=perplexity, init="pca", max_iter=_ITERATIONS, random_state=seed, verbose=2)
        positions = tsne.fit_transform(reduced.astype(np.float32))
    return Projection(positions.astype(np.float32), how)


def cluster(features: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.int64]:
    """Return clusters (n), numbered from the largest, of l2-normalized features (n, d): k-means, the best of three starts."""
    from sklearn.cluster import KMeans

    clusters = min(clusters, len(np.unique(features, axis=0)))
    best, inertia = np.zeros(len(features), dtype=np.int64), np.inf
    with progress("clusters", _TRIES, unit="starts") as advance:
        for i in range(_TRIES):
            fitted = KMeans(clusters, n_init=1, random_state=seed + i).fit(features)
            if fitted.inertia_ < inertia:
                best, inertia = fitted.labels_, fitted.inertia_
            advance(1)
    order = np.argsort(-np.bincount(best, minlength=clusters), kind="stable")
    return np.argsort(order)[best].astype(np.int64)


class _ProgressFromOutput:
    """Updates the progress from what scikit-learn's t-SNE prints every 50 iterations: it has no callback."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.done = 0

    def write(self, text: str) -> int:
        match = re.search(r"Iteration (\d+)", text)
        if match and int(match[1]) > self.done:
            self.advance(int(match[1]) - self.done)
            self.done = int(match[1])
        return len(text)

    def flush(self) -> None:
        """Nothing is kept."""


@contextmanager
def _reported(advance: Advance) -> Iterator[None]:
    with redirect_stdout(_ProgressFromOutput(advance)):
        yield
