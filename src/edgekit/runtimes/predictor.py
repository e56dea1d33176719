"""From an image file to class names and probabilities, with one variant of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.bundle import Bundle, Variant
from edgekit.errors import BundleError, DataError
from edgekit.preprocess import read_image
from edgekit.runtimes import RUNNABLE, load, why_not

_PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, the likeliest first, each with its probability."""

    classes: list[tuple[str, float]]


class Predictor:
    """Classifies images with one variant of a bundle.

    Args:
        bundle: an opened bundle.
        variant: the id of a variant; None takes the one that `default_variant` names.
        threads: threads inside an operator; 0 leaves it to the runtime.

    Raises:
        BundleError: there is no such variant, none was verified, or it cannot be loaded.
        RuntimeMissing: its runtime is not installed.
    """

    def __init__(self, bundle: Bundle, variant: str | None = None, *, threads: int = 0) -> None:
        self.variant = bundle.variant(variant) if variant else default_variant(bundle)
        self.classes = bundle.manifest.classes
        self._preprocessing = bundle.manifest.preprocessing
        self._session = load(bundle, self.variant, threads=threads)

    def predict(self, source: Path | str | bytes, top: int = 3) -> Prediction:
        """Classify one image.

        Args:
            source: a path, or the bytes of an encoded image.
            top: how many classes to give.

        Raises:
            DataError: the image cannot be read.
        """
        return self.predict_image(read_image(source), top)

    def predict_image(self, image: Image.Image, top: int = 3) -> Prediction:
        """Classify one upright RGB image that is decoded already, for instance a camera's frame."""
        return self.top(self._session.run(self._preprocessing(image)[None])[0], top)

    def top(self, logits: NDArray[np.float32], count: int) -> Prediction:
        """The `count` likeliest classes for logits (classes,)."""
        return Prediction([(self.classes[i], p) for i, p in likeliest(logits, count)])

    def close(self) -> None:
        """Release the model."""
        self._session.close()


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities over the last axis; the largest logit is taken off first, so that no exponential overflows."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    return powers / powers.sum(axis=-1, keepdims=True)


def likeliest(logits: NDArray[np.float32], count: int) -> list[tuple[int, float]]:
    """Index and probability of the `count` likeliest classes for logits (classes,); of equal ones the first class wins."""
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(int(i), float(probabilities[i])) for i in order]


def default_variant(bundle: Bundle) -> Variant:
    """The variant to run where none is named: verified, runnable here, and nearest to the trained model.

    fp32 before fp16 before int8, and of one precision onnxruntime before openvino. Which variant is fastest depends on the
    machine (INT8 is not always faster, and CPUs without 8-bit dot products compute it less exactly), so speed is not guessed:
    `edgekit bench` measures it, and `--variant` takes what it found.

    Raises:
        BundleError: no variant was verified.
        RuntimeMissing: none of the verified ones can run on this machine.
    """
    verified = [v for v in bundle.manifest.variants if v.status == "verified"]
    if not verified:
        raise BundleError(f"{bundle.path}: holds no verified variant", "name one with --variant, or export again")
    runnable = [v for v in verified if why_not(v.runtime) is None]
    if not runnable:
        missing = why_not(verified[0].runtime)
        assert missing is not None
        raise missing
    return min(runnable, key=lambda v: (_PRECISIONS.index(v.precision), RUNNABLE.index(v.runtime)))


def image_files(sources: list[Path]) -> list[Path]:
    """The files among `sources`, and of each folder the files below it that Pillow knows by their suffix, sorted.

    Hidden files are left out.

    Raises:
        DataError: a folder holds no image.
    """
    suffixes = set(Image.registered_extensions())
    found: list[Path] = []
    for source in sources:
        if not source.is_dir():
            found.append(source)  # whether it can be read shows when it is read
            continue
        inside = sorted(
            path
            for path in source.rglob("*")
            if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
        )
        if not inside:
            raise DataError(f"{source}: no image in this folder", "give image files, or a folder that holds some")
        found += inside
    return found
