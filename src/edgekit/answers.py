"""The predictions of a run's classifiers for each test image, in one small file for the confusion matrix, the worst images and the bootstrap.

RUN/evaluate/answers.npz has the arrays truth, MODEL.predicted, MODEL.probability, worst, thumbnails and maps.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.files import write_bytes
from edgekit.foreign import Unreadable, read_npz
from edgekit.text import counted

FILE = "answers.npz"
MODELS = ("teacher", "student", "supervised")
_MOST_THUMBNAILS = 64


@dataclass(frozen=True, eq=False)
class Answers:
    """Predictions for n images.

    Args:
        truth: (n,) int32, the images' classes.
        predicted: for each model, (n,) int32, the most probable class.
        probability: for each model, (n,) float32, the probability of that class: softmax of the logits, divided by the temperature if there is one.
        worst: (m,) int32, rows of the wrong images with the student's highest confidence.
        thumbnails: (m, h, w, 3) uint8, thumbnails of these images.
        maps: (k, h, w) float32, of the first k of these images which places speak for the wrong class (`edgekit.tasks.occlusion`).
    """

    truth: NDArray[np.int32]
    predicted: dict[str, NDArray[np.int32]]
    probability: dict[str, NDArray[np.float32]]
    worst: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    thumbnails: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    maps: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 1, 1), np.float32))

    def __len__(self) -> int:
        return len(self.truth)

    def right(self, model: str) -> NDArray[np.bool_]:
        """Return (n,) bool: whether the model's prediction is right."""
        return self.predicted[model] == self.truth

    def top1(self, model: str) -> float:
        """Return the share of images that the model classifies correctly; NaN if there are no images."""
        return float(self.right(model).mean()) if len(self) else float("nan")

    def confusion(self, model: str, classes: int) -> NDArray[np.int64]:
        """Return (classes, classes): the number of images of class i (row) that the model predicts as class j (column)."""
        cells = self.truth.astype(np.int64) * classes + self.predicted[model]
        return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)

    def write(self, path: Path) -> None:
        """Write the file atomically; equal predictions give equal bytes."""
        arrays: dict[str, NDArray[np.generic]] = {
            "truth": self.truth,
            "worst": self.worst,
            "thumbnails": self.thumbnails,
            "maps": self.maps,
        }
        for model, predicted in self.predicted.items():
            arrays |= {f"{model}.predicted": predicted, f"{model}.probability": self.probability[model]}
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        write_bytes(path, stream.getvalue())


def read_answers(path: Path, classes: int) -> Answers:
    """Read the file.

    Args:
        path: of the file.
        classes: number of classes.

    Raises:
        Unreadable: it is missing, damaged, or has other content.
    """
    arrays = read_npz(path)
    try:
        truth, worst, thumbnails = arrays["truth"], arrays["worst"], arrays["thumbnails"]
        models = [model for model in MODELS if f"{model}.predicted" in arrays]
        predicted = {model: arrays[f"{model}.predicted"] for model in models}
        probability = {model: arrays[f"{model}.probability"] for model in models}
    except KeyError as error:
        raise Unreadable(path, f"has no array named {error.args[0]}") from error
    count = len(truth) if truth.ndim == 1 else -1
    for array in (truth, *predicted.values()):
        if (
            array.shape != (count,)
            or array.dtype != np.int32
            or (count and not 0 <= array.min() <= array.max() < classes)
        ):
            raise Unreadable(
                path,
                f"does not have predictions of {counted(classes, 'class', 'classes')} for {counted(max(0, count), 'image')}",
            )
    if any(array.shape != (count,) or array.dtype != np.float32 for array in probability.values()):
        raise Unreadable(path, "its probabilities are invalid")
    fits = (
        thumbnails.ndim == 4 and thumbnails.shape[3] == 3 and thumbnails.dtype == np.uint8 and worst.dtype == np.int32
    )
    if not fits or worst.shape != (len(thumbnails),) or len(thumbnails) > _MOST_THUMBNAILS:
        raise Unreadable(path, "its thumbnails are invalid")
    maps = arrays.get("maps", np.zeros((0, *thumbnails.shape[1:3]), np.float32))  # older files have none
    if (
        maps.dtype != np.float32
        or maps.ndim != 3
        or len(maps) > len(worst)
        or (len(maps) and maps.shape[1:] != thumbnails.shape[1:3])
        or not np.isfinite(maps).all()
    ):
        raise Unreadable(path, "its maps are invalid")
    return Answers(truth, predicted, probability, worst, thumbnails, maps)
