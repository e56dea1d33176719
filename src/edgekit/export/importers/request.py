"""`ModelRequest`: what the user requests of an import. `Network`: what every importer returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit.errors import ExportError
from edgekit.models.pixels import Channels, Statistics
from edgekit.pixel_range import PixelRange, parse_pixel_range
from edgekit.sizes import ImageSize, SizeLike

Interpolation = Literal["bilinear", "bicubic", "lanczos"]
Fit = Literal["crop", "stretch", "border"]
Geometry = Literal["edgekit", "torchvision"]


@dataclass(frozen=True)
class PixelFormat:
    """The preprocessing from an image file to a network's input; None: not given.

    Attributes:
        size: of the images that the network takes, in pixels.
        resize: shorter side of the area that an image covers before the center crop, in pixels (see `Preprocessing`).
        interpolation, fit: see `edgekit.preprocess.Preprocessing`.
        mean, std: pixels in [0, 1] are normalized as (x - mean) / std; one number, or one per channel in the network's own order.
        geometry, fill: how sides are rounded, and the color of the border (see `Preprocessing`).
        share: shorter side of `size` as a share of `resize` (timm's `crop_pct`); gives `resize` for another size.
        pixel_range: range of images of more than 8 bits; auto: found from the calibration images.
        channels: the network's order of channels.
    """

    size: ImageSize | None = None
    resize: int | None = None
    interpolation: Interpolation | None = None
    fit: Fit | None = None
    mean: Statistics | None = None
    std: Statistics | None = None
    geometry: Geometry | None = None
    fill: tuple[int, int, int] | None = None
    share: float | None = None
    pixel_range: PixelRange | Literal["auto"] | None = None
    channels: Channels | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", None if self.size is None else ImageSize.of(self.size))


@dataclass(frozen=True)
class ModelRequest:
    """The model to import, as given on the command line or from Python.

    Attributes:
        model: a path, `timm:NAME`, `torchvision:NAME` or `package.module:factory`.
        weights: a file with its weights.
        weights_key: which of the file's weights to load, see `edgekit.models.checkpoints.read_state_dicts`.
        classes: a file of class names.
        calibrate, evaluate: unlabeled and labeled images, as `edgekit.data.sources` takes them.
        pixels: the requested preprocessing.
        calibration_images: the largest number of calibration images.
        max_pixels: images with more pixels are not read.
        output_name: which of an ONNX graph's outputs holds the classes.
        module: the network itself, from Python; `model` is then the name of its class.
        names: names of the classes in the order of the logits, from Python; instead of the file `classes`.
        several: whether an image may have any number of classes, so that `evaluate` is a CSV file.
    """

    model: str
    weights: str | None = None
    classes: str | None = None
    calibrate: str | None = None
    evaluate: str | None = None
    pixels: PixelFormat = field(default_factory=PixelFormat)
    calibration_images: int = 300
    weights_key: str | None = None
    max_pixels: int | None = None
    output_name: str | None = None
    module: nn.Module | None = None
    names: Sequence[str] | None = None
    several: bool = False


@dataclass(frozen=True)
class Network:
    """An imported model.

    Attributes:
        module: normalized float32 images (n, 3, h, w) -> logits (n, classes); None if the model is a graph.
        graph: the float ONNX that edgekit makes from a foreign one; None if the model is a module.
        classes: number of logits; 0: not known yet.
        pixels: the model's own preprocessing.
        provenance: where it came from.
        notes: notes for the user, one sentence each.
        random: whether its weights are random.
        names: its own class names; None: it has none.
    """

    module: nn.Module | None
    classes: int
    pixels: PixelFormat
    provenance: dict[str, Any]
    graph: ImportedGraph | None = None
    notes: list[str] = field(default_factory=list)
    random: bool = False
    names: list[str] | None = None


@dataclass(frozen=True)
class ImportedGraph:
    """A foreign ONNX graph.

    Attributes:
        write: writes it in edgekit's form; takes path, image size, mean, std, order of the channels and names of the classes.
        run: takes mean, std and order of the channels, and returns a function that runs the original file: RGB images, uint8
            (n, h, w, 3) -> logits (n, classes).
    """

    write: Callable[[Path, SizeLike, Statistics, Statistics, Channels, list[str]], None]
    run: Callable[[Statistics, Statistics, Channels], Callable[[NDArray[np.uint8]], NDArray[np.float32]]]


def model_request(
    model: str, *, mean: str | None = None, std: str | None = None, size: SizeLike | None = None, resize: int | None = None,
    interpolation: Interpolation | None = None, fit: Fit | None = None, resize_rule: Geometry | None = None,
    pixel_range: str | None = None, channels: Channels | None = None, **others: Any,
) -> ModelRequest:  # fmt: skip
    """Build a `ModelRequest` from the options of the command line.

    Raises:
        ExportError: --mean or --std is not one number or three; --pixel-range is not a range.
    """
    pixels = PixelFormat(
        None if size is None else ImageSize.of(size), resize, interpolation, fit,
        parse_statistics(mean, "--mean"), parse_statistics(std, "--std"), resize_rule,
        pixel_range=_range(pixel_range), channels=channels,
    )  # fmt: skip
    return ModelRequest(model, pixels=pixels, **others)


def _range(text: str | None) -> PixelRange | Literal["auto"] | None:
    try:
        return parse_pixel_range(text) if text is not None else None
    except ValueError as error:
        raise ExportError(f"--pixel-range {text}: {error}", "for example --pixel-range 0,4095 for 12 bits") from error


def parse_statistics(text: str | None, option: str) -> Statistics | None:
    """Parse `0.5` or `0.485,0.456,0.406`.

    Raises:
        ExportError: `text` is neither.
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    positive = option == "--std"
    if len(values) not in {1, 3} or not all(math.isfinite(v) and (v > 0 or not positive) for v in values):
        kind = "positive numbers" if positive else "numbers"
        raise ExportError(
            f"{option} {text}: is not one number or three (red, green, blue)",
            f"give {kind} for pixels in [0, 1], for example {option} {'0.229,0.224,0.225' if positive else '0.485,0.456,0.406'}",
        )
    return values[0] if len(values) == 1 else (values[0], values[1], values[2])
