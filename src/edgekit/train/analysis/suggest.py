"""Suggest images to label first: typical ones from every part of the embedding, and a random sample for the test set.

TypiClust (Hacohen, Dekel and Weinshall 2022, Active learning on a budget, section 3): k-means with one cluster per label; from each
cluster, the image in the densest neighborhood. With few labels, typical images are more useful than uncertain ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.data.decode import Decoded, decode
from edgekit.data.labels import shuffled
from edgekit.data.pile import OwnTestSet, Pile, divide_pile, first_of_each
from edgekit.data.ranges import of_run
from edgekit.data.source import ImageSource
from edgekit.data.sources import official_test, open_labeled, open_pool
from edgekit.errors import DataError
from edgekit.run import Run
from edgekit.train.analysis.embed import Model
from edgekit.train.analysis.neighbors import distances, nearest

_NEIGHBORS = 20  # of the typicality, as in the paper
_SMALLEST = 5  # smaller clusters are used only if no larger one is left, as in the paper


@dataclass(frozen=True)
class Suggestion:
    """An image to label.

    Args:
        file: its name, relative to the pool.
        use: `train`: a typical training image; `test`: a random held-out image, for the test set.
        row: its position in the source.
    """

    file: str
    use: Literal["train", "test"]
    row: int


@dataclass(frozen=True)
class Suggestions:
    """The images to label; the training images in the order of their usefulness.

    Args:
        images: the suggestions.
        source: where the images are.
        pool: as the recipe names it.
        labeled: file and class of the images that already have a label; where `several`, their classes are left empty.
        notes: notes for the user, one sentence each.
        several: whether an image has any number of classes, so that one class does not label it.
    """

    images: list[Suggestion]
    source: ImageSource
    pool: str
    labeled: dict[str, str]
    notes: list[str]
    several: bool = False


def suggest(run: Run, count: int, test_count: int) -> Suggestions:
    """Choose the images to label first.

    Args:
        run: with a complete pretraining, of a recipe whose `data.labeled` is null, or of the task multilabel with a pool.
        count: training images to suggest.
        test_count: number of labeled held-out images that the test set should have, including those that have a label.

    Raises:
        RunError: the pretraining is not complete.
        DataError: the recipe names class folders, or an image or the label file cannot be read.
    """
    data = run.recipe.data
    if data.classes_per_image == "any":
        return _of_several_classes(run, count, test_count)
    if data.labeled is not None:
        raise DataError(
            f"{run.path}: its images have labels: data.labeled is {data.labeled}",
            "use a run whose recipe has data.labeled: null; `edgekit init FOLDER` writes one for a folder without class folders",
        )
    if data.pool is None:
        raise DataError(
            f"{run.path}: its images are for anomaly detection (data.normal: {data.normal}), which needs no classes",
            "use a run whose recipe has data.pool",
        )
    model, source, decoded = _pool_of(run, data.pool)
    own_test = None
    if isinstance(data.test, str):
        tests = open_labeled(official_test(data.test), "data.test", data).ranged(source.pixel_range)
        digests = decode(tests, model.preprocessing, data.max_skipped).digests
        own_test = OwnTestSet(tests.where, tests.classes, digests)
    pile = divide_pile(data, source, decoded.digests, own_test, check=False)
    # The first of each set of copies: no picture should be labeled twice.
    first = np.array(list(first_of_each(pile.training, decoded.digests).values()), dtype=np.int64)
    features, _ = model(decoded.images[first], "features")
    labeled = pile.labels[first] >= 0
    rows = first[typical(features.cpu().numpy(), labeled, count, run.recipe.seed)]
    return Suggestions(
        images=[
            *(Suggestion(source.names[i], "train", int(i)) for i in rows),
            *(Suggestion(source.names[i], "test", int(i)) for i in _to_test(pile, test_count)),
        ],
        source=source,
        pool=data.pool,
        labeled={source.names[i]: pile.classes[pile.labels[i]] for i in np.flatnonzero(pile.labels >= 0)},
        notes=[*source.notes, *decoded.notes, *pile.notes],
    )


def _of_several_classes(run: Run, count: int, test_count: int) -> Suggestions:
    """See `suggest`: images of the pool that no CSV file of the recipe names.

    Those to test on are a random sample of the pool, for a file of its own (`data.test`): a share of images that were chosen would be none.
    """
    data = run.recipe.data
    if data.pool is None:
        raise DataError(
            f"{run.path}: its images are those of {data.labeled}, which have their classes",
            "name the folder of all images in data.pool, pretrain on it, and repeat the command",
        )
    model, source, decoded = _pool_of(run, data.pool)
    named = {"data.labeled": data.labeled, "data.test": data.test if isinstance(data.test, str) else None}
    known: dict[str, set[str]] = {}
    for key, where in named.items():
        if where is not None:
            images = open_labeled(where, key, data).ranged(source.pixel_range)
            known[key] = {d for d in decode(images, model.preprocessing, data.max_skipped).digests if d}
    tested = known.get("data.test", set())
    first = first_of_each((i for i, d in enumerate(decoded.digests) if d and d not in tested), decoded.digests)
    rows = np.array(list(first.values()), dtype=np.int64)
    labeled = np.array([d in known["data.labeled"] for d in first], dtype=bool)
    features, _ = model(decoded.images[rows], "features")
    chosen = rows[typical(features.cpu().numpy(), labeled, count, run.recipe.seed)].tolist()
    taken = {*chosen, *rows[labeled].tolist()}
    free = set(rows.tolist()) - taken
    left = [i for i in shuffled(source.names, decoded.digests, "test", data.split_seed) if i in free]
    return Suggestions(
        images=[
            *(Suggestion(source.names[i], "train", i) for i in chosen),
            *(Suggestion(source.names[i], "test", i) for i in left[: max(0, test_count - len(tested))]),
        ],
        source=source,
        pool=data.pool,
        labeled={
            name: ""
            for name, d in zip(source.names, decoded.digests, strict=True)
            if any(d in own for own in known.values())
        },
        notes=[*source.notes, *decoded.notes],
        several=True,
    )


def _pool_of(run: Run, pool: str) -> tuple[Model, ImageSource, Decoded]:
    """Return the pretrained encoder, and the pool as it was read for the run."""
    model, data = Model.load(run, "encoder"), run.recipe.data
    source = open_pool(pool, "data.pool", data).ranged(of_run(run) or data.pixel_range)
    return model, source, decode(source, model.preprocessing, data.max_skipped)


def typical(features: NDArray[np.float32], labeled: NDArray[np.bool_], count: int, seed: int) -> list[int]:
    """Return the images that TypiClust labels next.

    Args:
        features: (n, d); they are l2-normalized here.
        labeled: (n) which images have a label.
        count: how many to choose; fewer where fewer are left.
        seed: of k-means.

    Returns:
        Positions, in the order of their choice, each once and none that is labeled.
    """
    from sklearn.cluster import KMeans

    vectors = torch.from_numpy(np.ascontiguousarray(features))
    unit = torch.nn.functional.normalize(vectors.float(), dim=1).numpy()
    total = len(unit)
    count = min(count, int((~labeled).sum()))
    if not count:
        return []
    clusters = min(int(labeled.sum()) + count, len(np.unique(unit, axis=0)))
    belongs = KMeans(clusters, n_init=1, random_state=seed).fit(unit).labels_
    near = np.zeros(total, dtype=np.float32)
    if total > 1:
        cosines, _ = nearest(vectors, vectors, min(_NEIGHBORS, total - 1), {i: [i] for i in range(total)}, "typicality")
        near = distances(cosines).mean(axis=1)
    return _by_cluster(belongs, near, labeled, count)


def _by_cluster(
    belongs: NDArray[np.int64], near: NDArray[np.float32], labeled: NDArray[np.bool_], count: int
) -> list[int]:
    """Repeatedly choose the most typical image of the cluster with the fewest labels; of several such clusters, the largest."""
    sizes = np.bincount(belongs)
    labels = np.bincount(belongs[labeled], minlength=len(sizes))
    waiting: list[list[int]] = [[] for _ in sizes]
    for i in np.argsort(near, kind="stable")[::-1]:
        if not labeled[i]:
            waiting[belongs[i]].append(int(i))  # the most typical last
    chosen: list[int] = []
    while len(chosen) < count:
        open_clusters = [c for c in range(len(sizes)) if waiting[c]]
        large = [c for c in open_clusters if sizes[c] >= _SMALLEST]
        cluster = min(large or open_clusters, key=lambda c: (labels[c], -sizes[c], c))
        chosen.append(waiting[cluster].pop())
        labels[cluster] += 1
    return chosen


def _to_test(pile: Pile, wanted: int) -> list[int]:
    """Return the first unlabeled held-out images of the draw, so that the labeled ones remain a random sample."""
    return [int(i) for i in pile.held_out[:wanted] if pile.labels[i] < 0]
