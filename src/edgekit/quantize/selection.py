"""Selection of calibration images from unlabeled ones: drawn from clusters of the network's own embedding rather than at random.

A few hundred random images miss what is rare in the pool, and rare images decide the ranges. So the float network embeds a part of the
pool, the embeddings are clustered, and each cluster gives images in proportion to its size: the one nearest to its center, and others
at random.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ExportError
from edgekit.files import digest_of
from edgekit.onnx_graph.files import read_onnx
from edgekit.progress import progress
from edgekit.quantize.qdq import last_layer
from edgekit.quantize.ranges import batches, observing

MOST_HELD_BACK = 500  # images for evaluation: the standard error of a loss of one point is half a point
_HELD_BACK = 3  # one image in three, at most `MOST_HELD_BACK`
_FEWEST_HELD_BACK = 16  # the number of golden images; half of the pool if it has fewer than 32 images
FEWEST, ADVISED = 8, 100  # calibration images: fewer than the first are refused, fewer than the second give a warning
MOST_EMBEDDED = 5000  # images, however large the pool is
_EMBEDDED_PER_IMAGE = 8  # times the calibration images, but at least `_FEWEST_EMBEDDED`
_FEWEST_EMBEDDED = 1000


@dataclass(frozen=True)
class CalibrationPool:
    """The pool that calibration images are drawn from, and how many to draw.

    Attributes:
        total: number of images in the pool.
        read: reads images: rows int64 (m,) -> uint8 (m, h, w, 3).
        digest: digest of the images' contents.
        count: number of images to draw; all of them if the pool is smaller.
        classes: number of the network's classes, if known: the least number of clusters.
        seed: seed of the draw.
    """

    total: int
    read: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    digest: str
    count: int = 300
    classes: int = 1
    seed: int = 0

    @classmethod
    def of_images(cls, images: NDArray[np.uint8]) -> CalibrationPool:
        """A pool of these images, uint8 (n, h, w, 3), all of which are drawn."""
        return cls(len(images), lambda rows: images[rows], digest_of_arrays(images), len(images))

    @property
    def key(self) -> str:
        """A digest of everything except the network that the draw depends on."""
        return digest_of([self.total, self.digest, self.count, self.classes, self.seed])

    @property
    def drawn(self) -> int:
        """The number of images that a draw gives."""
        return min(self.count, self.total)

    def held_back(self) -> tuple[CalibrationPool, NDArray[np.int64]]:
        """Hold images back from calibration for evaluation: a random third of the pool, at most `MOST_HELD_BACK`; half of a small pool.

        The choice depends only on the pool and the seed, so exports of other variants, or with more calibration images, use the same ones.
        A pool of one image holds none back.

        Returns:
            The pool that is left for calibration, and the rows that were held back, int64 (h,), ascending.
        """
        if self.total < 2:
            return self, np.zeros(0, np.int64)
        fewest = min(_FEWEST_HELD_BACK, self.total // 2)
        count = min(MOST_HELD_BACK, max(fewest, self.total // _HELD_BACK))
        held = np.sort(np.random.default_rng([self.seed, self.total]).choice(self.total, count, replace=False))
        remaining = np.setdiff1d(np.arange(self.total), held)
        read = self.read
        rest = replace(
            self,
            total=len(remaining),
            read=lambda rows: read(remaining[rows]),
            digest=digest_of([self.digest, count]),
        )
        return rest, held


@dataclass(frozen=True)
class Drawn:
    """Calibration images.

    Attributes:
        images: uint8 (n, h, w, 3).
        rows: their positions in the pool, int64 (n,), ascending.
        record: how they were drawn, for the bundle.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    record: dict[str, Any] = field(default_factory=dict)


def digest_of_arrays(*arrays: NDArray[Any]) -> str:
    """A digest of arrays' shapes, dtypes and contents."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        for part in np.array_split(array, max(1, len(array) // 1024)):  # a memory map is read part by part
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def draw(model: Path, pool: CalibrationPool, how: Literal["clusters", "random"] = "clusters") -> Drawn:
    """Draw calibration images; the same network, pool and seed always give the same images.

    Args:
        model: the float ONNX.
        pool: the pool of images.
        how: from clusters of the embedding, or at random.

    Raises:
        ExportError: the pool is empty, or ONNX Runtime cannot run the model.
    """
    total, count = pool.total, pool.drawn
    if not count:
        raise ExportError("no calibration images: INT8 needs images to find the ranges of the activations")
    generator = np.random.default_rng(pool.seed)
    record: dict[str, Any] = {"drawn": how, "pool": total, "seed": pool.seed}
    if count == total:
        rows = np.arange(total)
        record["drawn"] = "all"
    elif how == "random":
        rows = generator.choice(total, count, replace=False)
    else:
        few = min(total, MOST_EMBEDDED, max(_FEWEST_EMBEDDED, _EMBEDDED_PER_IMAGE * count))
        embedded = np.sort(generator.choice(total, few, replace=False))
        features = embed(model, embedded, pool.read)
        clusters = min(count, max(pool.classes, round(np.sqrt(few))))
        chosen, sizes = stratified(features, count, clusters, pool.seed)
        rows = embedded[chosen]
        record |= {
            "embedded": few,
            "clusters": len(sizes),
            "smallest_cluster": min(sizes),
            "largest_cluster": max(sizes),
        }
    rows = np.sort(rows).astype(np.int64)
    images = np.ascontiguousarray(pool.read(rows))
    record["images_sha256"] = digest_of_arrays(images)
    return Drawn(images, rows, record)


def embed(
    model: Path, rows: NDArray[np.int64], read: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
) -> NDArray[np.float32]:
    """The input of the last layer of a float ONNX, float32 (n, features), of unit length; averaged over positions, if it has any."""
    graph = read_onnx(model)
    layer = last_layer(graph)
    inner = layer.input[0] if layer is not None else graph.graph.output[0].name
    session = observing(graph, [inner])
    image = graph.graph.input[0].name
    parts = []
    with progress("choose", len(rows), unit="images") as advance:
        for some in np.array_split(rows, max(1, len(rows) // 256)):
            for batch in batches(read(some)):
                values = session.run([inner], {image: batch})[0]
                parts.append(values.reshape(*values.shape[:2], -1).mean(axis=2))
                advance(len(batch))
    features = np.concatenate(parts).astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def stratified(
    features: NDArray[np.float32], count: int, clusters: int, seed: int
) -> tuple[NDArray[np.int64], list[int]]:
    """Draw from each cluster in proportion to its size.

    Args:
        features: float32 (n, d).
        count: how many to draw, of at most n.
        clusters: number of clusters, at most `count`; equal features make fewer.
        seed: seed of the clustering and of the draw.

    Returns:
        Indices int64 (count,), each once, and the sizes of the clusters.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    clusters = min(clusters, len(np.unique(features, axis=0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = MiniBatchKMeans(clusters, random_state=seed, n_init=3, batch_size=1024).fit(features)
    distances = np.linalg.norm(features - means.cluster_centers_[means.labels_], axis=1)
    members = [np.flatnonzero(means.labels_ == cluster) for cluster in range(clusters)]
    members = [rows for rows in members if len(rows)]
    quotas = proportional([len(rows) for rows in members], count)
    generator = np.random.default_rng(seed)
    chosen = []
    for rows, quota in zip(members, quotas, strict=True):
        if quota:
            nearest = rows[distances[rows].argmin()]
            others = generator.permutation(rows[rows != nearest])[: quota - 1]
            chosen += [int(nearest), *others.tolist()]
    return np.array(chosen, dtype=np.int64), [len(rows) for rows in members]


def proportional(sizes: list[int], count: int) -> list[int]:
    """Divide `count` in proportion to `sizes`, by the largest remainders: whole numbers, none above its size.

    Args:
        sizes: of at least `count` in all.
        count: to divide.
    """
    exact = np.array(sizes) * (count / sum(sizes))
    shares = np.floor(exact).astype(int)
    order = np.argsort(-(exact - shares), kind="stable")
    shares[order[: count - int(shares.sum())]] += 1
    return [int(share) for share in shares]
