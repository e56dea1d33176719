"""How a gallery decides, from its own images alone: how many images of a class count, and below which similarity an image is unknown.

The number is the one with which most images are recognized, each left out in turn.

For each image, the *impostor* similarity is the largest with any other class: what an image of an unknown class would get. The threshold is
the order statistic of split conformal prediction (`edgekit.conformal`): above it lies a further impostor with a probability of at most a if
it is like these n. That needs n ≥ 1/a - 1, and fewer give no threshold. The images of one class are alike, so the rate holds for classes
like those of the gallery, not for any image at all; and few classes say little about others, however many images they have: then the
threshold carries a note.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.conformal import fewest_samples, rank_beyond
from edgekit.errors import DataError, check_range
from edgekit.gallery.record import SIMILARITIES, Threshold
from edgekit.gallery.search import NO_ROW, leave_one_out
from edgekit.shares import percent
from edgekit.text import counted

FALSE_ACCEPTS = 0.05
NEIGHBORS = (1, 2, 3, 5)  # nearest images of a class whose mean similarity may count
_MOST = 4096  # images that are left out in turn; of more, so many are taken at equal distances


def calibrate(
    vectors: NDArray[np.float32],
    counts: NDArray[np.int64],
    *,
    neighbors: Sequence[int] = NEIGHBORS,
    false_accepts: float | None = FALSE_ACCEPTS,
    value: float | None = None,
) -> tuple[int, Threshold]:
    """Return how many nearest images of a class count, the threshold, and what leaving the images out one at a time says about it.

    Args:
        vectors: unit vectors (n, d), grouped by class.
        counts: (classes,) rows of each class.
        neighbors: the numbers to choose from, ascending. The one with which most images are recognized is chosen, of equally good ones the
            smallest; numbers of which no class has one image more are left out, except for the first.
        false_accepts: share of unknown images that may be taken for a class; None: `value` is the threshold.
        value: a threshold that somebody has set; with neither, there is none.

    Raises:
        EdgekitError: `value` is no cosine.
    """
    if value is not None:
        check_range("threshold", value, *SIMILARITIES)
    options = [k for k in neighbors if k < counts.max(initial=0)] or neighbors[:1]
    each_genuine, each_impostor = _left_out(vectors, counts, options)
    best = int(((each_genuine > each_impostor) & (each_genuine > NO_ROW)).sum(1).argmax()) if len(counts) > 1 else 0
    genuine, impostor = each_genuine[best], each_impostor[best]
    others = impostor[impostor > NO_ROW]
    note = ""
    if false_accepts is not None:
        k, needed = rank_beyond(false_accepts, len(others)), fewest_samples(false_accepts)
        value = float(np.sort(others)[-k]) if k else None
        if value is None:
            note = (
                f"{percent(false_accepts, 0)} false accepts need {needed:,} images of at least two classes "
                f"to judge by, and there are {len(others):,}"
            )
        elif len(counts) < needed:
            note = (
                f"only {counted(len(counts), 'class', 'classes')} stood for unknown ones, and the images of a class are alike: the real share "
                "of false accepts may be several times as large; measure it with `edgekit gallery test`"
            )
    known = genuine > NO_ROW
    count = int(known.sum())
    return options[best], Threshold(
        value=value,
        false_accepts=false_accepts,
        impostors=len(others),
        genuine=count,
        false_rejects=None if value is None or not count else float((genuine[known] <= value).mean()),
        top1=float((genuine > impostor)[known].mean()) if count else None,
        note=note,
    )


def require_value(threshold: Threshold) -> None:
    """Refuse a threshold that was asked for by its rate and cannot be had.

    Raises:
        DataError: there are too few images.
    """
    if threshold.value is None and threshold.note:
        raise DataError(
            f"no threshold: {threshold.note}",
            "add images or classes, allow more with --false-accepts, or set the similarity yourself with --threshold",
        )


def spread(total: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` of `total` rows, at equal distances."""
    return np.arange(total) if total <= most else np.linspace(0, total - 1, most).astype(np.int64)


def _left_out(
    vectors: NDArray[np.float32], counts: NDArray[np.int64], neighbors: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For each of some images, its similarity with its own class without it, and the largest with any other class.

    Each is (k, m), for k numbers of neighbors; `NO_ROW` where there is none.
    """
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    labels = np.repeat(np.arange(len(counts)), counts)
    chosen = spread(len(vectors), _MOST)
    genuine = np.empty((len(neighbors), len(chosen)), np.float32)
    impostor = np.empty_like(genuine)
    for part, found in leave_one_out(vectors[chosen], chosen, vectors, starts, neighbors):
        each, own = np.arange(found.shape[1]), labels[chosen[part]]
        genuine[:, part] = found[:, each, own]
        found[:, each, own] = NO_ROW
        impostor[:, part] = found.max(2)
    return genuine, impostor
