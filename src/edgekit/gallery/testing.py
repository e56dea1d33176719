"""Score a gallery on a folder of labeled images, those of classes that it does not hold among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError
from edgekit.gallery.building import BATCH
from edgekit.gallery.photos import read_class_folder
from edgekit.gallery.recognizer import Recognizer
from edgekit.intervals import wilson
from edgekit.progress import progress


@dataclass(frozen=True)
class GalleryScores:
    """How a gallery answers labeled images.

    Attributes:
        known: images of its classes.
        right: those whose nearest class is theirs, whatever the threshold.
        accepted: those of `right` that are not called unknown.
        rejected: images of its classes that are called unknown.
        unknown: images of other classes.
        refused: those that are called unknown.
        auroc: probability that an image of its classes is more similar to the gallery than one of other classes; None without both.
        per_class: for each of its classes that there are images of, the number of images and of right ones.
        failed: images that cannot be read, a line each.
        notes: what was left out.
    """

    known: int
    right: int
    accepted: int
    rejected: int
    unknown: int
    refused: int
    auroc: float | None
    per_class: dict[str, tuple[int, int]]
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The scores as JSON types, with 95 % confidence intervals of the shares (Wilson)."""
        return {
            "known": {
                "images": self.known,
                "top1": _share(self.right, self.known),
                "accepted_and_right": _share(self.accepted, self.known),
                "false_rejects": _share(self.rejected, self.known),
            },
            "unknown": {"images": self.unknown, "false_accepts": _share(self.unknown - self.refused, self.unknown)},
            "auroc": None if self.auroc is None else round(self.auroc, 6),
            "classes": [{"class": name, "images": n, "right": right} for name, (n, right) in self.per_class.items()],
            "failed": len(self.failed),
        }


def score(recognizer: Recognizer, folder: Path | str, threshold: float | None = None) -> GalleryScores:
    """Answer the images of a folder with one sub-folder a class, and compare.

    Args:
        recognizer: with the gallery.
        folder: classes that the gallery does not hold are images that it should call unknown.
        threshold: see `Recognizer.answers`.

    Raises:
        DataError: the folder or one of its classes is invalid, or no image can be read.
    """
    photos = read_class_folder(folder)
    names: list[str] = []
    answers = []
    failed = []
    with progress("test", len(photos.files), unit="images") as advance:
        pairs = recognizer.predict_many(photos.files, batch=BATCH, top=1, threshold=threshold)
        for name, (_, answer) in zip(photos.names, pairs, strict=True):
            if isinstance(answer, DataError):
                failed.append(str(answer))
            else:
                names.append(name)
                answers.append(answer)
            advance(1)
    if not answers:
        raise DataError(f"{folder}: none of its images can be read", failed[0])
    held = set(recognizer.gallery.classes)
    known = np.array([name in held for name in names])
    right = np.array([answer.nearest[0][0] == name for name, answer in zip(names, answers, strict=True)]) & known
    accepted = np.array([answer.known for answer in answers])
    similarity = np.array([answer.similarity for answer in answers])
    per_class = {
        name: (int((own := np.array([n == name for n in names])).sum()), int((own & right).sum()))
        for name in recognizer.gallery.classes
        if name in set(names)
    }
    return GalleryScores(
        known=int(known.sum()),
        right=int(right.sum()),
        accepted=int((right & accepted).sum()),
        rejected=int((known & ~accepted).sum()),
        unknown=int((~known).sum()),
        refused=int((~known & ~accepted).sum()),
        auroc=auroc(similarity[known], similarity[~known]),
        per_class=per_class,
        failed=failed,
        notes=photos.notes,
    )


def auroc(positive: NDArray[np.floating[Any]], negative: NDArray[np.floating[Any]]) -> float | None:
    """Return the area under the ROC curve: the probability that a positive value exceeds a negative one, ties counting half.

    By ranks (Mann & Whitney 1947); None without values of both.
    """
    if not len(positive) or not len(negative):
        return None
    below = np.searchsorted(np.sort(negative), positive, "left")
    upto = np.searchsorted(np.sort(negative), positive, "right")
    return float((below + upto).sum() / (2 * len(positive) * len(negative)))


def _share(count: int, total: int) -> dict[str, Any]:
    if not total:
        return {"share": None, "low": None, "high": None}
    share = count / total
    low, high = wilson(share, total)
    return {"share": round(share, 6), "low": round(low, 6), "high": round(high, 6)}
