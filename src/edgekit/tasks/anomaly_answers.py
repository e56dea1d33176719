"""What a detector says about each test image, in one small file for the report: RUN/evaluate/anomaly.npz.

It holds the scores of all test images and of the held-out normal ones, and pictures and heat maps of the most anomalous test images.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.files import write_bytes
from edgekit.foreign import Unreadable, read_npz
from edgekit.text import counted

FILE = "anomaly.npz"
MOST = 10  # images with a picture
_SIDE = 192  # pixels of the longer side of a picture
_NAMES = ("names", "defects", "scores", "held_out", "threshold", "map_threshold", "shown", "pictures", "maps")


@dataclass(frozen=True, eq=False)
class AnomalyAnswers:
    """Scores of n test images.

    Attributes:
        names: paths of the images.
        defects: of each, `good` or the name of its defect.
        scores: float32 (n,).
        held_out: float32 (m,), of the normal images that the threshold was set on.
        threshold: the score above which an image is anomalous; None without one.
        shown: int32 (k,), rows of the most anomalous images, the highest score first.
        pictures: uint8 (k, h, w, 3), what the model sees of them.
        maps: float32 (k, h, w), their heat maps.
        map_threshold: what is above it is outlined in drawings of heat maps; None: nothing is.
    """

    names: list[str]
    defects: list[str]
    scores: NDArray[np.float32]
    held_out: NDArray[np.float32]
    threshold: float | None
    shown: NDArray[np.int32]
    pictures: NDArray[np.uint8]
    maps: NDArray[np.float32]
    map_threshold: float | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """uint8 (n,): 0 normal, 1 anomalous."""
        return np.array([defect != "good" for defect in self.defects], dtype=np.uint8)

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        defects: Sequence[str],
        scores: NDArray[np.float32],
        maps: NDArray[np.float32],
        images: NDArray[np.uint8],
        held_out: NDArray[np.float32],
        threshold: float | None,
        map_threshold: float | None = None,
    ) -> AnomalyAnswers:
        """Choose the most anomalous images and make their pictures.

        Args:
            names, defects, scores: of n test images.
            maps: float32 (n, h, w).
            images: uint8 (n, h, w, 3), as the model sees them; read by rows.
            held_out: float32 (m,).
            threshold, map_threshold: see the class.
        """
        shown = np.argsort(-scores, kind="stable")[:MOST].astype(np.int32)
        height, width = maps.shape[1:]
        scale = min(1.0, _SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pictures = [np.asarray(Image.fromarray(images[int(i)]).resize(size, Image.Resampling.BOX)) for i in shown]
        small = [
            np.asarray(Image.fromarray(maps[int(i)].astype(np.float32)).resize(size, Image.Resampling.BOX))
            for i in shown
        ]
        empty = np.zeros((0, size[1], size[0]))
        return cls(
            list(names), list(defects), scores.astype(np.float32), held_out.astype(np.float32), threshold, shown,
            np.array(pictures, dtype=np.uint8) if pictures else np.stack([empty] * 3, axis=3).astype(np.uint8),
            np.array(small, dtype=np.float32) if small else empty.astype(np.float32), map_threshold,
        )  # fmt: skip

    def write(self, path: Path) -> None:
        """Write the file atomically; equal answers give equal bytes."""
        stream = io.BytesIO()
        # With an empty text at the end, an empty list is an array of texts, too.
        names, defects = (np.array([*values, ""]) for values in (self.names, self.defects))
        np.savez_compressed(
            stream, names=names, defects=defects, scores=self.scores, held_out=self.held_out,
            threshold=_number(self.threshold), map_threshold=_number(self.map_threshold),
            shown=self.shown, pictures=self.pictures, maps=self.maps,
        )  # fmt: skip
        write_bytes(path, stream.getvalue())


def read_anomaly_answers(path: Path) -> AnomalyAnswers:
    """Read the file.

    Raises:
        Unreadable: it is missing, damaged, or has other content.
    """
    arrays = read_npz(path, list(_NAMES))
    texts = {name: arrays[name] for name in ("names", "defects")}
    numbers = {name: arrays[name] for name in ("scores", "held_out", "maps")}
    shown, pictures = arrays["shown"], arrays["pictures"]
    limits = arrays["threshold"], arrays["map_threshold"]
    count = len(texts["names"]) - 1 if texts["names"].ndim == 1 else -1
    if count < 0 or any(array.shape != (count + 1,) or array.dtype.kind != "U" for array in texts.values()):
        raise Unreadable(path, "its names are invalid")
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in numbers.values()):
        raise Unreadable(path, "its scores are invalid")
    if numbers["scores"].shape != (count,) or numbers["held_out"].ndim != 1 or any(limit.shape for limit in limits):
        raise Unreadable(path, f"does not have scores of {counted(count, 'image')}")
    maps = numbers["maps"]
    rows_fit = shown.ndim == 1 and shown.dtype == np.int32 and len(shown) <= MOST
    if not rows_fit or (len(shown) and not 0 <= shown.min() <= shown.max() < count):
        raise Unreadable(path, "its pictures belong to other images")
    if pictures.shape != (*maps.shape, 3) or pictures.dtype != np.uint8 or maps.ndim != 3 or len(maps) != len(shown):
        raise Unreadable(path, "its pictures are invalid")
    threshold, map_threshold = (value if math.isfinite(value := float(limit)) else None for limit in limits)
    return AnomalyAnswers(
        [str(name) for name in texts["names"][:-1]], [str(name) for name in texts["defects"][:-1]],
        numbers["scores"], numbers["held_out"], threshold, shown, pictures, maps, map_threshold,
    )  # fmt: skip


def _number(limit: float | None) -> np.float64:
    return np.float64(math.nan if limit is None else limit)
