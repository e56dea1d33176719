"""Load a bundle to classify images from Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.arguments import Count, CountOrZero, checked
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.preprocess import MAX_PIXELS
from edgekit.runtimes.predictor import Predictor

if TYPE_CHECKING:
    from edgekit.gallery import Gallery


@checked()
def load(
    bundle: Bundle | Path | str,
    variant: str | None = None,
    *,
    gallery: Gallery | Path | str | None = None,
    threads: CountOrZero = 0,
    max_pixels: Count = MAX_PIXELS,
    abstain: bool = True,
    abstain_below: float | None = None,
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
        abstain: answer unknown about images unlike those that the model was trained on, if the bundle has a rule for that.
        abstain_below: another threshold than the bundle's: images with a lower score are unknown.

    Raises:
        BundleError: the bundle is missing or damaged, has no such variant, or no verified one; or no embedding for a gallery.
        DataError: the gallery is missing or damaged, or was made with another bundle.
        RuntimeMissing: the variant's runtime is not installed.
        EdgekitError: `abstain_below` is out of range, or the bundle has no rule for unknown.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if gallery is not None:
        if abstain_below is not None:
            raise EdgekitError(
                "abstain_below cannot be combined with a gallery, which has a threshold of its own",
                "leave one out; `predict(…, threshold=…)` changes the gallery's",
            )
        from edgekit.gallery import Recognizer

        return Recognizer(opened, gallery, variant, threads=threads, max_pixels=max_pixels)
    return Predictor(
        opened, variant, threads=threads, max_pixels=max_pixels, abstain=abstain, abstain_below=abstain_below
    )
