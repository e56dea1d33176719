"""Embed a folder of images with a model of a run: features, predictions, nearest neighbors, anomaly scores, clusters, a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.data.decode import decode
from edgekit.data.images import Skipped
from edgekit.data.pixels import Pixels, center_crop
from edgekit.data.ranges import of_run
from edgekit.data.sources import ImageSource, is_digits, open_pool
from edgekit.data.splits import load_splits
from edgekit.errors import DataError
from edgekit.foreign import Unreadable, read_json
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import Encoder
from edgekit.models.store import load_classifier, load_pretrained
from edgekit.preprocess import Preprocessing
from edgekit.recipe import Architecture, Recipe
from edgekit.run import Run
from edgekit.stages import TRAINED_BY
from edgekit.text import counted, visible
from edgekit.train.analysis.neighbors import distances, nearest
from edgekit.train.analysis.projection import Projection, cluster, project
from edgekit.train.evaluate import device_of, outputs
from edgekit.train.objective import objective_of
from edgekit.train.records.inputs import require_current

Of = Literal["encoder", "teacher", "student", "supervised"]
STAGE_OF: dict[str, str] = {"encoder": "pretrain", **TRAINED_BY}
SOURCE = "Sun et al. 2022, arXiv 2204.06507"
_MAX_CLUSTERS = 10


class Both(nn.Module):
    """Returns features and logits of a classifier in one pass, concatenated: (n, d + classes)."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return features and logits of normalized images (n, 3, h, w)."""
        features = self.model.embed(images)
        return torch.cat([features, self.model.head(features)], dim=1)


@dataclass(frozen=True)
class Model:
    """The model that embeds.

    Args:
        of: encoder, teacher, student or supervised.
        network: returns features, followed by logits if there are classes.
        classes: names; empty for an encoder.
        architecture: of the network.
        digest: SHA-256 of its weights.
        recipe: of the run, for its seed.
        preprocessing: of the run, with the range of its images.
    """

    of: str
    network: Encoder | Both
    classes: list[str]
    architecture: Architecture
    digest: str
    recipe: Recipe
    preprocessing: Preprocessing

    @classmethod
    def load(cls, run: Run, of: str) -> Model:
        """Read a model of a run.

        Raises:
            RunError: its stage is not complete, or damaged.
        """
        stage = STAGE_OF[of]
        outputs = run.require(stage).outputs
        digest = outputs["model.safetensors"]
        folder = run.stage_path(stage)
        preprocessing = run.recipe.data.preprocessing(of_run(run))
        if of == "encoder":
            pretrained = load_pretrained(folder, outputs)
            return cls(of, pretrained.encoder, [], pretrained.architecture, digest, run.recipe, preprocessing)
        classifier = load_classifier(folder, outputs)
        known = (classifier.classes, classifier.architecture, digest)
        return cls(of, Both(classifier), *known, run.recipe, preprocessing)

    def __call__(self, images: Pixels, title: str = "") -> tuple[Tensor, Tensor]:
        """Return features (n, d) and probabilities (n, classes) of uint8 images (n, h, w, 3), on the device they were computed on."""
        data = self.recipe.data
        both = outputs(self.network, images, data.mean, data.std, device_of(self.recipe), title)
        width = both.shape[1] - len(self.classes)
        logits = both[:, width:]
        return both[:, :width], logits.softmax(1) if objective_of(self.recipe).one_class else logits.sigmoid()


@dataclass(frozen=True, repr=False)
class Embedding:
    """The results of `embed` for n images; arrays have one row per image.

    Args:
        source: where the images are.
        rows: (n) their positions in the source (without unreadable images).
        files: names, relative to the folder.
        images: (n, h, w, 3) uint8, as the model sees them.
        labels: the first folder of each file's path, or None.
        features: (n, d) float32.
        predicted: the most probable class; None for an encoder.
        probability: its probability, float32.
        neighbors: (n, k) int64, the nearest other images of the folder, the nearest first.
        similarities: (n, k) float32, their cosines.
        anomaly: (n) float32, 0 to 2; see `definition`.
        clusters: (n) int64, numbered from 0, the largest first.
        drawn: (m) int64, the images on the map.
        projection: their positions.
        skipped: files that could not be read.
        model: the model that embedded them.
        definition: of the anomaly score.
        notes: notes for the user about the images, one sentence each.
        nearest: for each image of the argument: the nearest images of the folder, as positions in `files` with their cosines.
    """

    source: ImageSource
    rows: list[int]
    files: list[str]
    images: NDArray[np.uint8]
    labels: list[str | None]
    features: NDArray[np.float32]
    predicted: list[str] | None
    probability: NDArray[np.float32] | None
    neighbors: NDArray[np.int64]
    similarities: NDArray[np.float32]
    anomaly: NDArray[np.float32]
    clusters: NDArray[np.int64]
    drawn: NDArray[np.int64]
    projection: Projection
    skipped: list[Skipped]
    model: Model
    definition: str
    notes: list[str]
    nearest: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def __repr__(self) -> str:
        count, width = self.features.shape
        return f"<Embedding of {visible(self.source.where)} by the {self.model.of}: {counted(count, 'image')}, {counted(width, 'feature')} each>"

    def outliers(self, count: int) -> list[int]:
        """Return the images with the highest anomaly scores, the highest first."""
        return [int(i) for i in np.argsort(-self.anomaly, kind="stable")[:count]]

    def nearest_to(self, image: Path | str, count: int) -> list[tuple[int, float]]:
        """Return the images of the folder that are nearest to a given image, with their cosines; the same picture is first, with 1.

        Raises:
            DataError: it cannot be read.
        """
        pixels = self.model.preprocessing.read(Path(image), self.model.recipe.data.max_pixels)
        query, _ = self.model(pixels[None])
        bank = torch.from_numpy(self.features).to(query.device)
        cosines, rows = nearest(bank, query, min(count, len(self.files)))
        return [(int(i), float(c)) for i, c in zip(rows[0], cosines[0], strict=True)]


def embed(
    run: Run,
    folder: str,
    *,
    of: Of = "encoder",
    against: Literal["folder", "pool"] = "folder",
    k: int = 10,
    clusters: int | None = None,
    points: int = 2000,
    outliers: int = 10,
) -> Embedding:
    """Embed the images of a folder.

    Args:
        run: the run with the model.
        folder: flat or nested; or anything that `data.pool` of a recipe accepts.
        of: the model: encoder, teacher, student or supervised.
        against: the anomaly score is the distance to the k-th neighbor among the folder's other images, or in the run's pool.
        k: number of neighbors; fewer if there are fewer images.
        clusters: number of k-means clusters; default: the number of classes of the run, at most 10.
        points: largest number of images on the map; with more images, the outliers and a random sample of the others.
        outliers: number of outliers that are always on the map.

    Raises:
        DataError: the folder is missing, empty, or has fewer than two images that can be read.
        RunError: the stage is not complete, or the pool of the run has changed since its training.
    """
    model = Model.load(run, of)
    data = model.recipe.data
    source = open_pool(folder, data=data).ranged(model.preprocessing.pixel_range)
    decoded = decode(source, model.preprocessing, max_skipped=1.0)
    rows = [i for i, digest in enumerate(decoded.digests) if digest]
    if len(rows) < 2:
        raise DataError(
            f"{folder}: only {len(rows)} image can be read",
            "give at least two images: neighbors, anomaly scores and a map need them",
        )
    images = decoded.images[:] if len(rows) == len(decoded.digests) else decoded.images[np.array(rows)]
    embedded, probabilities = model(images, "features")
    count = len(rows)

    k_own = min(k, count - 1)
    cosines, neighbors = nearest(embedded, embedded, k_own, {i: [i] for i in range(count)}, "neighbors")
    if against == "pool":
        digests = [decoded.digests[i] for i in rows]
        to_kth, definition = _against_pool(run, model, embedded, digests, k)
    else:
        to_kth = cosines[:, -1]
        definition = _definition(k_own, f"the {counted(count, 'image')} of {folder}, itself left out")
    anomaly = distances(to_kth)

    features = embedded.cpu().numpy()
    unit = torch.nn.functional.normalize(embedded, dim=1).cpu().numpy()
    clusters = clusters or min(_MAX_CLUSTERS, _classes(run, model))
    drawn = _drawn(anomaly, points, outliers, model.recipe.seed)
    top = probabilities.max(dim=1) if model.classes else None
    return Embedding(
        source=source,
        rows=rows,
        files=[source.names[i] for i in rows],
        images=images,
        labels=_labels(source, rows),
        features=features,
        predicted=[model.classes[i] for i in top.indices.tolist()] if top else None,
        probability=top.values.cpu().numpy() if top else None,
        neighbors=neighbors,
        similarities=cosines,
        anomaly=anomaly,
        clusters=cluster(unit, clusters, model.recipe.seed),
        drawn=drawn,
        projection=project(unit[drawn], model.recipe.seed),
        skipped=decoded.skipped,
        model=model,
        definition=definition,
        notes=[*source.notes, *decoded.notes],
    )


def _definition(k: int, among: str) -> str:
    which = {1: "nearest", 2: "2nd nearest", 3: "3rd nearest"}.get(k, f"{k}th nearest")
    return f"Euclidean distance of l2-normalized features to the {which} neighbor among {among} ({SOURCE})"


def _against_pool(
    run: Run, model: Model, embedded: Tensor, digests: Sequence[str], k: int
) -> tuple[NDArray[np.float32], str]:
    """Return cosines (n) to the k-th neighbor in the pool, without the same picture, and the definition of the score."""
    recipe = model.recipe
    splits = load_splits(recipe.data, run)
    require_current([STAGE_OF[model.of]], recipe, splits, run)
    pool = splits.pool
    bank, _ = model(center_crop(pool.images, recipe.data.image_size), "pool")  # no copy: the pool may be large
    where: dict[str, list[int]] = {}
    for i, digest in enumerate(pool.digests):
        where.setdefault(digest, []).append(i)
    itself = {i: where[digest] for i, digest in enumerate(digests) if digest in where}
    k = max(1, min(k, len(pool) - max((len(rows) for rows in itself.values()), default=0)))
    cosines, _ = nearest(bank, embedded, k, itself, "distances")
    return cosines[:, -1], _definition(k, f"the {counted(len(pool), 'image')} of the run's pool, itself left out")


def _labels(source: ImageSource, rows: Sequence[int]) -> list[str | None]:
    """Return the first folder of each path, which is the class if there is one sub-folder per class."""
    if not is_digits(source.where) and not Path(source.where).expanduser().is_dir():
        return [None] * len(rows)
    return [source.names[i].split("/")[0] if "/" in source.names[i] else None for i in rows]


def _classes(run: Run, model: Model) -> int:
    """Return the number of classes of the run."""
    if model.classes:
        return len(model.classes)
    try:
        return len(read_json(run.stage_path("data") / "splits.json")["classes"]) or _MAX_CLUSTERS
    except (Unreadable, KeyError, TypeError):
        return _MAX_CLUSTERS


def _drawn(anomaly: NDArray[np.float32], points: int, outliers: int, seed: int) -> NDArray[np.int64]:
    """Return the images on the map, in their order."""
    count = len(anomaly)
    if count <= points:
        return np.arange(count)
    order = np.argsort(-anomaly, kind="stable")
    first = order[: min(outliers, points)]
    rest = np.random.default_rng(seed).permutation(order[len(first) :])[: points - len(first)]
    return np.sort(np.concatenate([first, rest]))
