"""Load a bundle to classify images from Python."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.preprocess import MAX_PIXELS
from edgekit.runtimes.predictor import Predictor


def load(
    bundle: Bundle | Path | str,
    variant: str | None = None,
    *,
    threads: int = 0,
    max_pixels: int = MAX_PIXELS,
    abstain: bool = True,
    abstain_below: float | None = None,
) -> Predictor:
    """Open a bundle and load one of its variants.

        with edgekit.load("bundle.zip") as model:
            classes = model.predict("photo.jpg").classes

    Args:
        bundle: a folder, a .zip, or an opened bundle.
        variant: its id, such as `onnx-int8`; None: a verified one that runs on this machine, the fastest if that is known.
        threads: threads inside an operator; 0 leaves it to the runtime.
        max_pixels: the largest image that is decoded, in pixels.
        abstain: answer unknown about images unlike those that the model was trained on, if the bundle has a rule for that.
        abstain_below: another threshold than the bundle's: images with a lower score are unknown.

    Raises:
        BundleError: the bundle is missing or damaged, has no such variant, or no verified one.
        RuntimeMissing: the variant's runtime is not installed.
        EdgekitError: `abstain_below` is out of range, or the bundle has no rule for unknown.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    return Predictor(
        opened, variant, threads=threads, max_pixels=max_pixels, abstain=abstain, abstain_below=abstain_below
    )
