"""The preprocessing in the metadata of an ONNX file that edgekit wrote."""

from __future__ import annotations

from onnx import ModelProto
from pydantic import ValidationError

from edgekit.export.importers.request import PixelFormat
from edgekit.foreign import Unreadable, parse_json
from edgekit.preprocess import Preprocessing
from edgekit.sizes import ImageSize


def own_pixels(model: ModelProto, size: ImageSize) -> PixelFormat:
    """Read the preprocessing from the metadata of a graph that takes uint8 pixels and normalizes them itself.

    Args:
        model: the file's content.
        size: of the images that the graph takes, in pixels.

    Returns:
        The preprocessing if edgekit wrote it for this size; otherwise only the size.
    """
    nothing = PixelFormat(size=size, mean=0.0, std=1.0)
    text = next((prop.value for prop in model.metadata_props if prop.key == "preprocessing"), None)
    if text is None:
        return nothing
    try:
        known = Preprocessing.model_validate(parse_json(text, "its metadata"))
    except (Unreadable, ValidationError):  # another program uses the same key
        return nothing
    if known.image_size != size:
        return nothing
    return PixelFormat(
        size=size, resize=known.resize_to, interpolation=known.interpolation, fit=known.fit, mean=0.0, std=1.0,
        geometry=known.geometry, fill=known.fill, pixel_range=known.pixel_range,
    )  # fmt: skip
