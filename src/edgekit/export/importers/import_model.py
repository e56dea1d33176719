"""Import a user's own model: its kind, its classes, its preprocessing and its images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from edgekit.data.ranges import Stated, with_range
from edgekit.data.source import ImageSource as Images
from edgekit.errors import ExportError
from edgekit.export.importers.classes import (
    ClassNames,
    check_count,
    listed_classes,
    model_classes,
    numbered,
    read_classes,
)
from edgekit.export.importers.images import calibration_pool, open_calibration, open_evaluation, pixels, spread
from edgekit.export.importers.kinds import kind_of
from edgekit.export.importers.order import Answers, ordered
from edgekit.export.importers.request import ModelRequest, Network, PixelFormat
from edgekit.export.importers.source import ModelSource
from edgekit.export.importers.statistics import in_unit_range
from edgekit.models.pixels import Channels, PixelClassifier, Statistics
from edgekit.preprocess import Preprocessing
from edgekit.quantize.selection import MOST_EMBEDDED, CalibrationPool
from edgekit.sizes import ImageSize
from edgekit.tasks.classification import LOGITS

_SMALL = 64  # px: up to this size the center crop cuts nothing off, as in a recipe


def import_model(request: ModelRequest, scratch: Path) -> ModelSource:
    """Import a model that edgekit did not train.

    Args:
        request: the user's request.
        scratch: an empty folder that outlives the export.

    Raises:
        EdgekitError: the model, its weights, its classes or its images cannot be used.
    """
    if request.calibrate is None:
        raise ExportError(
            f"{request.model}: no images for calibration", "give a folder of unlabeled images: --calibrate FOLDER"
        )
    if request.output_name is not None and kind_of(request.model) != "onnx":
        raise ExportError(f"--output-name: {request.model} is not an ONNX file", "leave out --output-name")
    calibration = open_calibration(request.calibrate, request.max_pixels)
    evaluation = (
        open_evaluation(request.evaluate, request.max_pixels, request.several) if request.evaluate is not None else None
    )
    stated_names = _stated_names(request)
    listed = stated_names.names if stated_names is not None else evaluation.classes if evaluation is not None else None
    counted = len(listed) if listed is not None else None
    network = _opener(request)(request, counted)
    pixel_format = _merged(request.pixels, network.pixels)
    preprocessing = _preprocessing(pixel_format, request.pixels, request.model)
    mean, std, divided = _statistics(pixel_format, request.model)
    channels = pixel_format.channels or "rgb"
    if network.module is not None and not network.classes:
        network = _with_logits(network, preprocessing.image_size, request.model, counted, request.several)
    count = network.classes
    checked_names = _checked_names(stated_names, request, network, evaluation)
    images, pixel_range = with_range(
        pixel_format.pixel_range or "auto",
        [[spread(calibration, MOST_EMBEDDED)], [evaluation] if evaluation is not None else []],
        lambda known: _decoded(request, calibration.ranged(known), evaluation, known, preprocessing, count),
    )
    preprocessing = preprocessing.model_copy(update={"pixel_range": pixel_range})
    pool, test, of_images = images
    known, labeled = _in_models_order(
        checked_names, request, evaluation, test, count, _answers(network, mean, std, channels)
    )
    names, notes = known.names, [*network.notes, *known.notes, *of_images]
    if labeled is None:
        notes.append(
            "no labeled images (--evaluate FOLDER): accuracy is unknown; variants are compared with the float model's predictions"
        )
    notes.append(_description(preprocessing, mean, std, channels))
    if divided:
        notes.append("mean and std are larger than 1, so they are taken for pixels in 0 to 255 and divided by 255")
    model, trained = _in_pixels(network, scratch, preprocessing.image_size, mean, std, channels, names)
    return ModelSource(
        name=_name(request.model),
        model=model,
        trained=trained,
        classes=names,
        preprocessing=preprocessing,
        calibration=pool,
        evaluation=labeled,
        output=Path("export") / _name(request.model),
        provenance={
            **network.provenance,
            "random_weights": network.random,
            "normalization": {"mean": mean, "std": std},
            "channels": channels,
            "calibrated_on": request.calibrate,
            "evaluated_on": request.evaluate,
            "notes": notes,
        },
        notes=notes,
        random=network.random,
    )


def _decoded(
    request: ModelRequest,
    calibration: Images,
    evaluation: Images | None,
    known: Stated,
    preprocessing: Preprocessing,
    classes: int,
) -> tuple[CalibrationPool, tuple[NDArray[np.uint8], NDArray[np.int64]] | None, list[str]]:
    """The calibration pool, the evaluation images with their labels, and notes on both."""
    pool, notes = calibration_pool(calibration, preprocessing, request.calibration_images, classes)
    if evaluation is None:
        return pool, None, notes
    test, labels, more = pixels(evaluation.ranged(known), preprocessing)
    assert labels is not None
    return pool, (test, labels), [*notes, *more]


def _stated_names(request: ModelRequest) -> ClassNames | None:
    if request.names is not None:
        return listed_classes(request.names)
    return read_classes(request.classes) if request.classes is not None else None


def _opener(request: ModelRequest) -> Callable[[ModelRequest, int | None], Network]:
    from edgekit.export.importers import modules

    if request.module is not None:
        return modules.from_module
    kind = kind_of(request.model)
    if kind == "onnx":
        from edgekit.export.importers.onnx_file import from_onnx

        return from_onnx
    if kind == "safetensors":
        from edgekit.export.importers.safetensors_file import from_safetensors

        return from_safetensors
    return {"timm": modules.from_timm, "torchvision": modules.from_torchvision, "factory": modules.from_factory}[kind]


def _with_logits(network: Network, size: ImageSize, model: str, classes: int | None, several: bool) -> Network:
    """Wrap a network so that it returns logits, whatever the form of its output."""
    from edgekit.export.importers.outputs import as_classifier

    assert network.module is not None
    module, count, notes = as_classifier(network.module, size, model, classes, several)
    return replace(network, module=module, classes=count, notes=[*network.notes, *notes])


def _answers(network: Network, mean: Statistics, std: Statistics, channels: Channels) -> Answers:
    """A function that runs the model: uint8 images (n, h, w, 3) -> logits (n, classes)."""
    if network.graph is not None:
        return network.graph.run(mean, std, channels)
    assert network.module is not None
    module = PixelClassifier(network.module, mean, std, channels).eval()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
        return logits

    return run


def _checked_names(
    stated_names: ClassNames | None, request: ModelRequest, network: Network, evaluation: Images | None
) -> ClassNames | None:
    """The user's names, else the model's own, checked before any image is read; None if only the folders can give them."""
    if stated_names is None and network.names is not None:
        stated_names = model_classes(network.names)
    if stated_names is None:
        if evaluation is not None:
            check_count(network.classes, request.model, evaluation.classes, f"--evaluate {request.evaluate}")
        return None
    check_count(network.classes, request.model, stated_names.names, stated_names.source)
    if evaluation is not None and stated_names.places(evaluation.classes) is None:
        unknown = [c for c in evaluation.classes if c not in stated_names.names]
        raise ExportError(
            f"--evaluate: {request.evaluate}: {len(unknown)} of its folders are not among the classes of {request.classes or stated_names.source}: "
            f"{', '.join(unknown[:3])}",
            "name each sub-folder as its class"
            if request.classes
            else "give the names of the model's classes: --classes FILE",
        )
    return stated_names


def _in_models_order(
    known: ClassNames | None, request: ModelRequest, evaluation: Images | None, test: tuple[NDArray[np.uint8], NDArray[np.int64]] | None,
    count: int, answers: Answers,
) -> tuple[ClassNames, tuple[NDArray[np.uint8], NDArray[np.int64]] | None]:  # fmt: skip
    """The names of the classes, and the images with labels as indices of classes instead of folders."""
    if evaluation is None or test is None:
        note = f"its classes are named class_0 to class_{count - 1}; give their names with --classes FILE"
        return known or ClassNames(numbered(count), notes=[note]), None
    images, labels = test
    if known is None:
        source = f"--evaluate {request.evaluate}"
        if request.several:
            return ClassNames(evaluation.classes, source), test
        names, notes = ordered(evaluation.classes, images, labels, answers, source)
        known = ClassNames(names, source, notes)
    found = known.places(evaluation.classes)
    assert found is not None
    places, numbers = found
    if request.several:
        there = np.zeros((len(labels), count), dtype=np.int64)
        there[:, places] = labels
        return replace(known, notes=[*known.notes, *numbers]), (images, there)
    return replace(known, notes=[*known.notes, *numbers]), (images, np.array(places, dtype=np.int64)[labels])


def _merged(requested: PixelFormat, network: PixelFormat) -> PixelFormat:
    """The requested format; unset fields are the network's. The network's `resize` belongs to its own size, so it is scaled to another."""
    changes = {
        f.name: getattr(requested, f.name) for f in fields(PixelFormat) if getattr(requested, f.name) is not None
    }
    if "resize" not in changes:
        size = changes.get("size", network.size)
        if "fit" in changes and changes["fit"] != network.fit:  # the network's `resize` belongs to its own fit
            changes["resize"] = size.shorter if size is not None and changes["fit"] == "stretch" else None
        elif size is not None and "size" in changes and network.share:
            changes["resize"] = math.floor(size.shorter / network.share)
        elif size is not None and "size" in changes and network.resize and network.size:
            changes["resize"] = max(size.shorter, int(size.shorter * network.resize / network.size.shorter))
    return replace(network, **changes)


def _preprocessing(pixel_format: PixelFormat, requested: PixelFormat, model: str) -> Preprocessing:
    if pixel_format.size is None:
        raise ExportError(f"{model}: its image size is unknown", "give it, for example --size 224")
    side = pixel_format.size.shorter
    uncropped = side <= _SMALL or pixel_format.fit == "stretch"
    resize = pixel_format.resize or (side if uncropped else side * 8 // 7)
    options = f"--size {pixel_format.size.option} --resize {resize}"
    if resize < side and requested.resize is not None:
        raise ExportError(f"{options}: would leave a border around the image", "give a --resize of at least --size")
    try:
        return Preprocessing(
            image_size=pixel_format.size,
            resize_to=resize,
            fit=pixel_format.fit or "crop",
            interpolation=pixel_format.interpolation or "bilinear",
            # Most other networks were trained with torchvision's transforms, or with timm's, which are the same.
            geometry=pixel_format.geometry or "torchvision",
            fill=pixel_format.fill or (0, 0, 0),
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ExportError(f"{options}: {reason}", "give a --resize of at least --size") from error


def _statistics(pixel_format: PixelFormat, model: str) -> tuple[Statistics, Statistics, bool]:
    """Mean and std for pixels in [0, 1], and whether they were given for pixels in 0 to 255."""
    if pixel_format.mean is None or pixel_format.std is None:
        raise ExportError(
            f"{model}: its normalization is unknown, and a wrong guess would silently cost accuracy",
            "give --mean and --std for pixels in [0, 1]: ImageNet's are --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225; "
            "without normalization --mean 0 --std 1",
        )
    mean, std, divided = in_unit_range(pixel_format.mean, pixel_format.std, model)
    # One number per channel costs time in some runtimes; three equal numbers become one.
    mean, std = (v[0] if isinstance(v, tuple) and len(set(v)) == 1 else v for v in (mean, std))
    return mean, std, divided


def _in_pixels(
    network: Network,
    scratch: Path,
    size: ImageSize,
    mean: Statistics,
    std: Statistics,
    channels: Channels,
    names: list[str],
) -> tuple[Any, Any]:
    """The model with pixels as its input: a module, or a graph file together with a function that runs the foreign graph."""
    if network.module is not None:
        return PixelClassifier(network.module, mean, std, channels).eval(), None
    assert network.graph is not None
    path = scratch / "rewired.onnx"
    network.graph.write(path, size, mean, std, channels, names)
    answer = network.graph.run(mean, std, channels)
    return path, lambda images: {LOGITS: answer(images)}


def _description(preprocessing: Preprocessing, mean: Statistics, std: Statistics, channels: Channels) -> str:
    p = preprocessing
    area = p.image_size.with_shorter(p.resize_to)
    center = "" if p.geometry == "torchvision" and area == p.image_size else f", the center {p.image_size} px"
    square = p.image_size.is_square
    resizings = {
        "crop": f"{'shorter side to' if square else 'resized to cover'} {area} px, the center {p.image_size} px",
        "stretch": f"stretched to {area} px{center}"
        if p.geometry == "torchvision"
        else f"stretched to {p.image_size} px",
        "border": f"{'longer side to' if square else 'resized to fit into'} {area} px{center}, bordered",
    }
    resizing = f"{resizings[p.fit]}, {p.interpolation}, rounded as {p.geometry} does (--resize-rule)"
    order = "; channels in BGR order, also in mean and std" if channels == "bgr" else ""
    return f"images: {resizing}; (pixel / 255 - mean) / std with mean {_listed(mean)}, std {_listed(std)}{order}"


def _listed(values: Statistics) -> str:
    return ", ".join(f"{v:g}" for v in (values if isinstance(values, tuple) else (values,)))


def _name(model: str) -> str:
    """The name of the bundle and its folder."""
    tail = model.rpartition(":")[2]
    stem = Path(tail).stem if kind_of(model) in {"onnx", "safetensors"} else tail
    if stem == "model":  # not informative; the folder's name may be
        stem = Path(tail).resolve().parent.name or stem
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in stem) or "model"
