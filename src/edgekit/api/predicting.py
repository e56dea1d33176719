"""Load a bundle to classify images from Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.bundle import Bundle
from edgekit.preprocess import MAX_PIXELS
from edgekit.runtimes.predictor import Predictor

if TYPE_CHECKING:
    from edgekit.gallery import Gallery


def load(
    bundle: Bundle | Path | str,
    variant: str | None = None,
    *,
    gallery: Gallery | Path | str | None = None,
    threads: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> Predictor:
    """Open a bundle and load one of its variants.

        with edgekit.load("bundle.zip") as model:
            classes = model.predict("photo.jpg").classes

    Args:
        bundle: a folder, a .zip, or an opened bundle.
        variant: its id, such as `onnx-int8`; None: a verified one that runs on this machine, the fastest if that is known.
        gallery: a gallery of this bundle's model, or its path (`edgekit gallery create`): answers are then its classes, or `unknown`, each
            an `edgekit.gallery.Recognition`.
        threads: threads inside an operator; 0 leaves it to the runtime.
        max_pixels: the largest image that is decoded, in pixels.

    Raises:
        BundleError: the bundle is missing or damaged, has no such variant, or no verified one; or no embedding for a gallery.
        DataError: the gallery is missing or damaged, or was made with another bundle.
        RuntimeMissing: the variant's runtime is not installed.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if gallery is not None:
        from edgekit.gallery import Recognizer

        return Recognizer(opened, gallery, variant, threads=threads, max_pixels=max_pixels)
    return Predictor(opened, variant, threads=threads, max_pixels=max_pixels)
