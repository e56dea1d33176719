"""Heat maps on the images that they belong to, at the images' own size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgekit.preprocess import Preprocessing

Pixels = NDArray[np.uint8]
Heat = NDArray[np.float32]

# From the lowest to the highest heat that is drawn: how much of the image is covered, and by which color.
_STEPS = (0.0, 0.35, 0.7, 1.0)
_COVER = (0.0, 0.4, 0.6, 0.75)
_COLORS = ((255, 235, 60), (255, 190, 30), (240, 90, 20), (190, 0, 60))
_OUTLINE = (0, 230, 255)  # no heat has this color
_UNSEEN = 0.45  # brightness of what the model did not see


def seen_box(
    preprocessing: Preprocessing, size: tuple[int, int], seen: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return the part of an image that a model sees: left, top, right and bottom, in pixels of the image; it may reach beyond the image.

    Args:
        preprocessing: of the model.
        size: width and height of the upright image.
        seen: height and width of what the model takes.
    """
    width, height = size
    across, down = seen[1], seen[0]
    if preprocessing.geometry == "torchvision":
        resized = preprocessing.resized(width, height)
        # As in `Preprocessing`: an odd margin is one pixel smaller before the picture, and half of what is cut off is rounded to even.
        left, top = (
            -((side - length) // 2) if side > length else round((length - side) / 2)
            for side, length in zip((across, down), resized, strict=True)
        )
    elif preprocessing.fit == "stretch":
        resized, left, top = (across, down), 0, 0
    else:
        shorter = min(across, down)
        scale = max(
            side * preprocessing.resize_to / shorter / length for side, length in zip((across, down), size, strict=True)
        )
        resized = (max(across, round(width * scale)), max(down, round(height * scale)))
        left, top = (resized[0] - across) // 2, (resized[1] - down) // 2
    x, y = width / resized[0], height / resized[1]
    return left * x, top * y, (left + across) * x, (top + down) * y


def at_own_size(heat: Heat, preprocessing: Preprocessing, size: tuple[int, int]) -> Heat:
    """Return a heat map at its image's own size, interpolated between the middles of its pixels; NaN where the model did not look.

    Args:
        heat: float32 (h, w), as the model sees the image.
        preprocessing: of the model.
        size: width and height of the upright image.

    Returns:
        float32 (height, width).
    """
    left, top, right, bottom = seen_box(preprocessing, size, heat.shape)
    rows = _along(heat.T, size[1], top, bottom).T
    return _along(rows, size[0], left, right)


def overlay(
    image: Pixels,
    heat: Heat,
    preprocessing: Preprocessing,
    threshold: float | None = None,
    span: tuple[float, float] | None = None,
) -> Pixels:
    """Draw a heat map on its image.

    With a threshold, color begins at half of it and is fullest at one and a half of it, the same for all images, and a line surrounds what
    is above it. Without one, the colors span this map's own values, or `span`. What the model did not see is dark.

    Args:
        image: uint8 (height, width, 3), upright RGB of any size.
        heat: float32 (h, w), as the model sees the image.
        preprocessing: of the model.
        threshold: the score above which an image is anomalous; it must be positive to set the colors.
        span: without a threshold, the values where color begins and where it is fullest, such as `Explanation.span`.

    Returns:
        uint8 (height, width, 3).
    """
    height, width = image.shape[:2]
    own = at_own_size(heat, preprocessing, (width, height))
    unseen = np.isnan(own)
    if threshold is not None and threshold > 0:
        low, high = threshold / 2, threshold * 1.5
    else:
        low, high = span or (float(heat.min()), float(heat.max()))
    level = np.clip((np.nan_to_num(own) - low) / max(high - low, 1e-12), 0, 1)
    cover = np.interp(level, _STEPS, _COVER)[:, :, None]
    color = np.stack([np.interp(level, _STEPS, channel) for channel in zip(*_COLORS, strict=True)], axis=2)
    drawn = image + cover * (color - image)
    drawn[unseen] = image[unseen] * _UNSEEN
    if threshold is not None:
        drawn[_border(np.nan_to_num(own, nan=-np.inf) > threshold, max(1, round(min(height, width) / 150)))] = _OUTLINE
    return np.rint(drawn).astype(np.uint8)


def _along(values: Heat, length: int, start: float, stop: float) -> Heat:
    """Interpolate linearly along axis 1, whose pixels span `start` to `stop` of `length` new pixels; NaN outside."""
    count = values.shape[1]
    middles = np.arange(length) + 0.5
    places = np.clip((middles - start) / (stop - start) * count - 0.5, 0, count - 1)
    first = np.minimum(places.astype(np.int64), max(count - 2, 0))
    share = (places - first).astype(np.float32)
    following = np.minimum(first + 1, count - 1)
    found = values[:, first] * (1 - share) + values[:, following] * share
    found[:, (middles < start) | (middles > stop)] = np.nan
    return np.asarray(found, dtype=np.float32)


def _border(inside: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """Return the pixels within `thickness` of the outside, of an area's own."""
    core = inside
    for _ in range(thickness):
        wide = np.pad(core, 1, mode="edge")
        core = core & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return inside & ~core
