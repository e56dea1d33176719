"""A task of edgekit's in a package of its own: how unusual an image is (`score`), and where (`map`). NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.tasks import Answer, Outputs, Task


@dataclass(frozen=True)
class Unusual(Answer):
    """How unusual an image is, and the place (row, column) where it is most so."""

    score: float
    place: tuple[int, int]
    embedding: NDArray[np.float32] | None = None

    def line(self) -> str:
        return f"unusual {self.score:.3f} at {self.place[0]},{self.place[1]}"

    def as_json(self) -> dict[str, Any]:
        return {"unusual": round(self.score, 6), "place": list(self.place)}


class Novelty(Task):
    """`score`, float32 (n,), and `map`, float32 (n, h, w)."""

    name = "novelty"
    main = "score"
    others = ("map",)
    optional = ()
    unit = "score"
    quality = "AUROC"
    counted = False
    metrics = {"auroc": "AUROC"}  # noqa: RUF012

    def fault(self, classes: Sequence[str], shapes: Mapping[str, Sequence[int | None]]) -> str:
        if classes:
            return "a novelty has no classes"
        ranks = len(shapes["score"]), len(shapes["map"])
        return "" if ranks == (0, 2) else f"its outputs have {ranks} axes beside the images"

    def labels_fault(self, labels: NDArray[Any], images: int, classes: Sequence[str]) -> str:
        return (
            "" if labels.shape == (images,) and set(np.unique(labels)) == {0, 1} else "are not 0 and 1 for each image"
        )

    def answers(self, outputs: Outputs, classes: Sequence[str], top: int, threshold: float) -> list[Answer]:
        found: list[Answer] = []
        for score, places in zip(outputs["score"], outputs["map"], strict=True):
            row, column = divmod(int(places.argmax()), places.shape[1])
            found.append(Unusual(float(score), (row, column)))
        return found

    def score(self, outputs: Outputs, labels: NDArray[Any]) -> dict[str, float]:
        odd, usual = outputs["score"][labels == 1], outputs["score"][labels == 0]
        above = (odd[:, None] > usual).mean() + (odd[:, None] == usual).mean() / 2
        return {"auroc": float(above)}

    def agreement(self, got: Outputs, trained: Outputs) -> NDArray[np.float64]:
        border = np.median(trained["score"])
        clear = np.abs(trained["score"] - border) > 1e-3 * np.abs(border)  # at the border itself any side is right
        return ((got["score"] > border) == (trained["score"] > border)).astype(np.float64) * clear + ~clear

    def expected_drop(self, got: Outputs, trained: Outputs) -> float:
        return 1 - float(self.agreement(got, trained).mean())

    def groups(self, outputs: Outputs, labels: NDArray[Any] | None) -> NDArray[np.int64]:
        quartiles = np.quantile(outputs["score"], [0.25, 0.5, 0.75])
        return np.searchsorted(quartiles, outputs["score"])


NOVELTY = Novelty()
