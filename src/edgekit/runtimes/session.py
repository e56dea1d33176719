"""What every runtime's session looks like, and the checks that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError, DataError, near

OUTPUT = "logits"


class Session(Protocol):
    """A model that is loaded into a runtime and ready to run.

    Attributes:
        runtime: the runtime's name, as in a bundle's variant.
        version: the runtime's own version.
        settings: what the runtime was told and what it answered: provider or device, inference precision, threads, …
    """

    runtime: str
    version: str
    settings: dict[str, str]

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify a batch.

        Args:
            images: uint8 pixels of shape (n, H, W, 3) with n >= 1 and the model's H and W; any memory layout, read-only too.

        Returns:
            The logits, float32 of shape (n, classes), in memory of their own.

        Raises:
            DataError: the batch is not of that dtype or shape.
        """
        ...

    def close(self) -> None:
        """Release the model's memory; the session cannot run afterwards."""
        ...


def check_graph(
    model: Path, inputs: Sequence[tuple[str, str, Sequence[int | None]]], outputs: Sequence[str]
) -> tuple[str, tuple[int, int, int]]:
    """The name and (H, W, 3) of a graph's one input, after checking that the graph is one of edgekit's.

    Args:
        model: the file, for the message.
        inputs: name, dtype (NumPy's name) and shape of every input; None is a free axis.
        outputs: the names of the outputs.

    Raises:
        BundleError: the graph does not take uint8 (free, H, W, 3) images or gives no `logits`.
    """
    hint = "export the model with `edgekit export`"
    if len(inputs) != 1:
        raise BundleError(f"{model}: the graph takes {len(inputs)} inputs, not one batch of images", hint)
    name, dtype, shape = inputs[0]
    if dtype != "uint8" or len(shape) != 4 or shape[0] is not None or shape[3] != 3:
        listed = ", ".join("free" if side is None else str(side) for side in shape)
        raise BundleError(f"{model}: the graph takes {dtype} ({listed}), not uint8 images (free, H, W, 3)", hint)
    if shape[1] is None or shape[2] is None:
        raise BundleError(f"{model}: the graph does not fix the image size", hint)
    if OUTPUT not in outputs:
        raise BundleError(f"{model}: the graph has no output named {OUTPUT}, only {', '.join(outputs)}", hint)
    return name, (shape[1], shape[2], 3)


def wrong_images(images: object, shape: tuple[int, int, int]) -> DataError:
    """The error for a batch that a session refuses; made only after the cheap test in `Session.run` failed."""
    hint = "prepare images with the bundle's preprocessing and stack them: np.stack([preprocessing(image)])"
    want = f"uint8 images of shape (n, {shape[0]}, {shape[1]}, 3)"
    if not isinstance(images, np.ndarray):
        return DataError(f"the model takes {want}, got {type(images).__name__}", hint)
    if images.dtype == np.uint8 and images.shape == (0, *shape):
        return DataError("the batch holds no image", hint)
    if images.dtype == np.uint8 and images.shape == shape:
        hint = "add the batch axis: image[None]"
    got = ", ".join(str(side) for side in images.shape)
    return DataError(f"the model takes {want}, got {images.dtype} of shape ({got})", hint)


def check_settings(runtime: str, settings: Mapping[str, str], known: Sequence[str]) -> None:
    """Refuse settings that a runtime's session does not know, since ignoring one would run something else than was verified.

    Raises:
        BundleError: a setting is unknown.
    """
    for key in settings:
        if key not in known:
            raise BundleError(
                f"{runtime}: unknown setting {key}", near(key, known) or f"it takes {', '.join(known)}; update edgekit"
            )
