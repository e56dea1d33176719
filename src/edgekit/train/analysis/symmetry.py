"""Test whether images may be mirrored: if a classifier can distinguish mirrored images from originals, left and right matter.

In digits, letters and gauges left and right matter, in most photographs they do not. Contrastive pretraining makes an encoder invariant
to its augmentation (Chen et al. 2020, SimCLR, section 3), so flips remove information that distinguishes classes of the first kind. The
test needs no labels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from edgekit.data.pixels import Pixels

SIDE = 32  # pixels; the images are resized to this side
# From this share on, images are not flipped: digits have 0.93 to 0.97, photographs 0.53 to 0.55; a wrong flip costs more than none.
CLEARLY = 0.75
FEWEST = 64  # images; fewer are not enough
_FOLDS, _BINS, _CELLS = 4, 8, 4
_AT_A_TIME = 100  # images to resize at a time: as floats, a thousand images of 224 pixels are 600 MB


def mirrored_told_apart(images: Pixels) -> float:
    """Return the share of held-out images that a classifier distinguishes from their mirror images; chance is 0.5.

    Args:
        images: uint8 (n, h, w, 3), of any size; n at least `FEWEST`. Their labels are not needed.

    Returns:
        The mean over four folds. The classifier is a logistic regression on the difference of the two images' pixels and gradient
        histograms (Dalal and Triggs 2005, HOG), without an intercept: mirrored, a difference has the opposite sign.
    """
    from sklearn.linear_model import LogisticRegression

    seen = _reduced(images)
    difference = _features(seen) - _features(seen[:, :, ::-1])
    difference /= difference.std() + 1e-9
    order, right = np.random.default_rng(0).permutation(len(difference)), 0
    for fold in range(_FOLDS):
        held_out = difference[order[fold::_FOLDS]]
        rest = difference[np.setdiff1d(order, order[fold::_FOLDS])]
        model = LogisticRegression(C=0.01, fit_intercept=False, max_iter=500)
        model.fit(np.concatenate([rest, -rest]), np.repeat([1, 0], len(rest)))
        right += int((model.decision_function(held_out) > 0).sum())
    return right / len(difference)


def _reduced(images: Pixels) -> NDArray[np.float32]:
    """Gray pixels in [0, 1], (n, SIDE, SIDE)."""
    reduced = []
    for start in range(0, len(images), _AT_A_TIME):
        gray = torch.from_numpy(images[start : start + _AT_A_TIME].astype(np.float32).mean(axis=3) / 255)
        reduced.append(F.interpolate(gray[:, None], (SIDE, SIDE), mode="bilinear", antialias=True)[:, 0])
    return torch.cat(reduced).numpy()


def _features(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gray pixels at half the size, and of each of 4 x 4 cells the directions of its edges."""
    count, half = len(gray), SIDE // 2
    pixels = gray.reshape(count, half, 2, half, 2).mean(axis=(2, 4)).reshape(count, -1)
    across, down = np.zeros_like(gray), np.zeros_like(gray)
    across[:, :, 1:-1] = gray[:, :, 2:] - gray[:, :, :-2]
    down[:, 1:-1] = gray[:, 2:] - gray[:, :-2]
    strength = np.hypot(across, down)
    direction = np.floor(np.arctan2(down, across) % np.pi / np.pi * _BINS).clip(0, _BINS - 1)
    width = SIDE // _CELLS
    histograms = [
        (strength * (direction == bin_))
        .reshape(count, _CELLS, width, _CELLS, width)
        .mean(axis=(2, 4))
        .reshape(count, -1)
        for bin_ in range(_BINS)
    ]
    edges = np.concatenate(histograms, axis=1)
    edges /= np.linalg.norm(edges, axis=1, keepdims=True) + 1e-3
    return np.concatenate([pixels - pixels.mean(), 5 * edges], axis=1).astype(np.float32)
