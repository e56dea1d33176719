"""The image input of a foreign ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from edgekit.errors import ExportError
from edgekit.export.importers.onnx_checks import type_name
from edgekit.models.pixels import Channels, Statistics
from edgekit.sizes import ImageSize

Layout = Literal["NCHW", "NHWC"]
CHANNELS = 3


@dataclass(frozen=True)
class ImageInput:
    """The image input of a foreign graph.

    Attributes:
        name: name of the input.
        layout: order of its axes.
        is_pixels: whether it takes uint8 pixels instead of normalized floats.
        batch: the fixed batch size; None: free.
        size: the fixed size of the images, in pixels; None: free.
    """

    name: str
    layout: Layout
    is_pixels: bool
    batch: int | None
    size: ImageSize | None

    def of_pixels(
        self, images: NDArray[np.uint8], mean: Statistics, std: Statistics, channels: Channels
    ) -> NDArray[np.generic]:
        """Convert RGB images, uint8 (n, h, w, 3), for this input: channels reordered, then normalized by NumPy in float64."""
        pixels: NDArray[np.generic] = images[..., ::-1] if channels == "bgr" else images
        if not self.is_pixels:
            pixels = ((pixels.astype(np.float64) / 255 - np.array(mean)) / np.array(std)).astype(np.float32)
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if self.layout == "NCHW" else pixels)

    def probes(self, size: ImageSize) -> NDArray[np.generic]:
        """Seeded test inputs of very different magnitude, (6, ...): zeros, noise of several strengths, constant brightness.

        Args:
            size: of the images, in pixels.
        """
        shape = (CHANNELS, *size) if self.layout == "NCHW" else (*size, CHANNELS)
        rng = np.random.default_rng(0)
        if self.is_pixels:
            noise = rng.integers(0, 256, (4, *shape), dtype=np.uint8)
            return np.concatenate([np.zeros((1, *shape), np.uint8), noise, np.full((1, *shape), 255, np.uint8)])
        noise = rng.standard_normal((4, *shape)) * np.array([0.3, 1, 3, 100]).reshape(4, 1, 1, 1)
        return np.concatenate([np.zeros((1, *shape)), noise, np.ones((1, *shape))]).astype(np.float32)


def find_input(model: ModelProto, file: str) -> ImageInput:
    """Find the image input of a classifier.

    Args:
        model: the graph.
        file: its path, for messages.

    Raises:
        ExportError: the graph has several inputs, or does not take RGB images as float32 or uint8.
    """
    weights = {t.name for t in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs[:5]) or "none"
        raise ExportError(
            f"{file}: has {len(inputs)} inputs ({names}), not one image", "export only the image classifier"
        )
    name, kind = inputs[0].name, inputs[0].type.tensor_type.elem_type
    # Paddle writes -1 for a free axis, other programs 0.
    shape = [d.dim_value if d.dim_value > 0 else None for d in inputs[0].type.tensor_type.shape.dim]
    described = f"{file}: its input {name} is {type_name(kind)} ({', '.join(str(d or '?') for d in shape)})"
    if kind not in {TensorProto.FLOAT, TensorProto.UINT8} or len(shape) != 4:
        raise ExportError(
            f"{described}, not a float32 or uint8 image of four axes",
            "export it with a float32 image (n, 3, h, w) as input",
        )
    layout: Layout = "NHWC" if shape[3] == CHANNELS and shape[1] != CHANNELS else "NCHW"
    channels, *sides = (shape[1], *shape[2:]) if layout == "NCHW" else (shape[3], *shape[1:3])
    if channels not in {None, CHANNELS}:
        raise ExportError(
            f"{described}: no axis of 3 channels", "export it for three channels: edgekit's images are RGB"
        )
    height, width = sides
    known = height or width, width or height  # one free side: as the other
    size = ImageSize.of((known[0], known[1])) if known[0] and known[1] else None
    return ImageInput(name, layout, kind == TensorProto.UINT8, shape[0], size)
