"""Make, extend and test galleries: embed the images of a folder with a bundle's model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit import __version__
from edgekit.bundle import Bundle, Variant
from edgekit.errors import DataError, EdgekitError
from edgekit.gallery.content import Gallery, arranged, distinct
from edgekit.gallery.photos import file_key, read_class_folder
from edgekit.gallery.recognizer import (
    doubt_about,
    require_embedding,
    require_same_model,
    require_session_embedding,
)
from edgekit.gallery.record import Agreement, GalleryRecord, Threshold, features, model_digest, variant_digest
from edgekit.gallery.search import leave_one_out, unit
from edgekit.gallery.threshold import FALSE_ACCEPTS, require_value, spread
from edgekit.parity import cosines
from edgekit.preprocess import MAX_PIXELS, open_image
from edgekit.progress import progress
from edgekit.result import now
from edgekit.runtimes import why_not
from edgekit.runtimes.predictor import Predictor
from edgekit.targets import find_runtime
from edgekit.tasks import UNKNOWN

BATCH = 8  # images per run
_COMPARED = 64  # images that each other variant embeds


@dataclass(frozen=True)
class Made:
    """A gallery that was made or extended.

    Attributes:
        gallery: the gallery.
        skipped: images that it held already.
        notes: what the user should know, a sentence each.
    """

    gallery: Gallery
    skipped: int = 0
    notes: list[str] = field(default_factory=list)


def create(
    bundle: Bundle,
    folder: Path | str,
    *,
    variant: str | None = None,
    false_accepts: float | None = None,
    threshold: float | None = None,
    threads: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> Made:
    """Make a gallery of a folder's images.

    Args:
        bundle: whose graphs give the embedding.
        folder: with one sub-folder a class; one image in each is enough.
        variant: the variant that embeds; None: the one that `edgekit predict` would choose.
        false_accepts: share of unknown images that may get a class, for the threshold; None: 5 %, and no threshold at all where there
            are too few images to judge that by.
        threshold: the threshold itself.
        threads, max_pixels: see `Predictor`.

    Raises:
        DataError: the folder, one of its classes or images is invalid; or there are too few images for `false_accepts`.
        BundleError: the bundle gives no embedding; and as `Predictor`.
        RuntimeMissing: see `Predictor`.
    """
    require_embedding(bundle)
    photos = read_class_folder(folder, UNKNOWN)
    with Predictor(bundle, variant, threads=threads, max_pixels=max_pixels) as predictor:
        require_session_embedding(bundle, predictor)
        embeddings, keys = embedded(predictor, photos.files)
        own = predictor.variant
    names = np.array(photos.names, object)
    kept = distinct(names, keys)
    empty = GalleryRecord(
        bundle=bundle.manifest.name,
        bundle_sha256=bundle.digest,
        model=model_digest(bundle),
        variant=own.id,
        variant_sha256=variant_digest(bundle, own.id),
        created=now(),
        edgekit=__version__,
        features=features(bundle) or embeddings.shape[1],
        classes=[""],
        counts=[1],
        threshold=Threshold(),
    )
    record, order = arranged(empty, names[kept])
    rows = kept[order]
    gallery = Gallery(record, unit(embeddings[rows]), keys[rows]).recalibrated(
        false_accepts=false_accepts if threshold is not None or false_accepts is not None else FALSE_ACCEPTS,
        value=threshold,
    )
    if false_accepts is not None:
        require_value(gallery.record.threshold)
    files = [photos.files[row] for row in rows]
    return _with_other_variants(bundle, gallery, files, np.arange(len(rows)), own, len(names) - len(rows), photos.notes)


def add(
    bundle: Bundle, gallery: Gallery, folder: Path | str, *, threads: int = 0, max_pixels: int = MAX_PIXELS
) -> Callable[[Gallery], Made]:
    """Embed further images, of new classes or of old ones, with the variant that made the gallery.

    Args:
        bundle: of the same model.
        gallery: to extend.
        folder, threads, max_pixels: see `create`.

    Returns:
        A function that adds them to the gallery as it is by then, which may have changed in between.

    Raises:
        As `create`, and DataError: the gallery is another bundle's.
    """
    require_embedding(bundle)
    require_same_model(bundle, gallery, "the gallery")
    photos = read_class_folder(folder, UNKNOWN)
    record = gallery.record
    with Predictor(bundle, record.variant, threads=threads, max_pixels=max_pixels) as predictor:
        require_session_embedding(bundle, predictor)
        embeddings, keys = embedded(predictor, photos.files)
        own = predictor.variant

    def merge(current: Gallery) -> Made:
        require_same_model(bundle, current, "the gallery")
        if current.record.variant_sha256 != variant_digest(bundle, current.record.variant):
            raise DataError(
                f"the gallery was made with another {current.record.variant} of this model, which was exported again",
                f"create the gallery again with `edgekit gallery create {bundle.path} FOLDER`",
            )
        grown, skipped = current.added(photos.names, embeddings, keys)
        position = {int(key): row for row, key in enumerate(grown.keys)}
        old = set(current.keys.tolist())
        new = {int(key): file for key, file in zip(keys, photos.files, strict=True) if int(key) not in old}
        rows = np.array([position[key] for key in new], np.int64)
        return _with_other_variants(bundle, grown, list(new.values()), rows, own, skipped, photos.notes)

    return merge


def embedded(predictor: Predictor, files: Sequence[Path]) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    """Return the embeddings (n, features) of image files, and the keys (n,) of the files.

    Raises:
        DataError: a file is not an image that can be read; nothing is left out silently.
    """
    keys: dict[Path, int] = {}

    def read(file: Path) -> Image.Image:
        image = open_image(file, predictor.max_pixels)
        keys[file] = file_key(file)
        return image

    rows, faults = [], []
    with progress("embed", len(files), unit="images") as advance:
        for _, answer in predictor.predict_many(files, batch=BATCH, top=1, read=read):
            if isinstance(answer, EdgekitError):
                faults.append(answer)
            else:
                rows.append(answer.embedding)
            advance(1)
    if faults:
        more = f", and {len(faults) - 1} others cannot be read" if len(faults) > 1 else ""
        raise DataError(f"{faults[0].message}{more}", faults[0].hint or "replace or remove it; nothing was written")
    return np.stack(rows), np.array([keys[file] for file in files], np.uint64)


def _with_other_variants(
    bundle: Bundle, gallery: Gallery, files: list[Path], rows: NDArray[np.int64], own: Variant, skipped: int,
    notes: list[str],
) -> Made:  # fmt: skip
    """The gallery, and how the bundle's other variants that run here answer with it, measured on some of its new images.

    Args:
        bundle, gallery: as they are.
        files: the new images.
        rows: their rows in the gallery.
        own: the variant that made the gallery.
        skipped, notes: for the result.
    """
    chosen = spread(len(files), _COMPARED)
    found: dict[str, Agreement] = {}
    if len(gallery) > 1 and len(files):
        for variant in bundle.manifest.variants:
            if variant.id != own.id and variant.status == "verified" and _runs_here(variant):
                measured = agreement(bundle, gallery, variant.id, [files[i] for i in chosen], rows[chosen])
                if measured is not None:
                    found[variant.id] = measured
    grown = gallery.with_agreement(found)
    doubts = [doubt_about(name, own.id, grown.record.agreement[name], "the gallery's images") for name in found]
    return Made(grown, skipped, [*notes, *(doubt for doubt in doubts if doubt)])


def agreement(
    bundle: Bundle, gallery: Gallery, variant: str, files: Sequence[Path], rows: NDArray[np.int64]
) -> Agreement | None:
    """Return how a variant's embeddings of the gallery's own images are answered, each image left out in turn.

    Args:
        bundle: an opened bundle.
        gallery: a gallery of its model.
        variant: id of another variant than the gallery's.
        files: images of the gallery.
        rows: their rows in it.

    Returns:
        None if the variant gives no embedding, or cannot run here.
    """
    try:
        with Predictor(bundle, variant) as predictor:
            if not predictor.has_embedding:
                return None
            got, _ = embedded(predictor, files)
    except EdgekitError:  # as `edgekit doctor` would say; the variant that made the gallery is not concerned
        return None
    own = gallery.vectors[rows]
    decided: list[NDArray[Any]] = []
    for queries in (unit(got), own):
        left_out = leave_one_out(queries, rows, gallery.vectors, gallery.starts, [gallery.record.neighbors])
        parts = [block[0].argmax(1) for _, block in left_out]
        decided.append(np.concatenate(parts))
    agreed = int((decided[0] == decided[1]).sum())
    return Agreement(images=len(rows), agreed=agreed, cosine=float(cosines(got, own).mean()))


def _runs_here(variant: Variant) -> bool:
    """Whether a variant runs on this machine, and not in an emulator of a microcontroller, which takes long."""
    runtime = find_runtime(variant.runtime)
    return runtime is not None and runtime.timed and why_not(variant.runtime) is None
