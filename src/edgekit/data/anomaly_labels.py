"""The labels of a test set in the form of the task `anomaly`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.data.anomaly_sets import AnomalySets
from edgekit.tasks.anomaly import UNMASKED


def labels_of_test(sets: AnomalySets) -> NDArray[np.uint8]:
    """The labels of the test images in the form of the task: masks (n, h, w) if any anomalous image has one, else (n,).

    An anomalous image without a mask, or whose defect the model does not see (cut off, or less than half a pixel), is `UNMASKED` all over.
    """
    labels = sets.labels
    masks = sets.seen_masks()
    if not any(mask is not None and mask.any() for mask, label in zip(masks, labels, strict=True) if label):
        return labels
    found = np.zeros((len(labels), *sets.test.size), np.uint8)
    for i, (mask, label) in enumerate(zip(masks, labels, strict=True)):
        if label:
            found[i] = mask if mask is not None and mask.any() else UNMASKED
    return found
