"""A model of the user's own: which kind it is, its classes, its pixels, its images."""

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
from edgekit.export.importers.classes import Names, agree, described, listed_classes, numbered, read_classes
from edgekit.export.importers.images import candidates, open_calibration, open_evaluation, pixels, spread
from edgekit.export.importers.kinds import kind_of
from edgekit.export.importers.order import Answers, ordered
from edgekit.export.importers.request import ModelRequest, Network, PixelFormat
from edgekit.export.importers.source import ModelSource
from edgekit.export.importers.statistics import in_unit_range
from edgekit.models.pixels import Channels, PixelClassifier, Statistics
from edgekit.preprocess import Preprocessing
from edgekit.quantize.selection import MOST_EMBEDDED, Candidates
from edgekit.tasks.classification import LOGITS

_SMALL = 64  # px: up to here nothing is cut off around the center, as in a recipe


def import_model(asked: ModelRequest, scratch: Path) -> ModelSource:
    """Open a model that edgekit did not train.

    Args:
        asked: what the user said.
        scratch: an empty folder that outlives the export.

    Raises:
        EdgekitError: the model, its weights, its classes or its images are not what they must be.
    """
    if asked.calibrate is None:
        raise ExportError(
            f"{asked.model}: no images to calibrate with", "give a folder of images, without labels: --calibrate FOLDER"
        )
    if asked.output_name is not None and kind_of(asked.model) != "onnx":
        raise ExportError(f"--output-name: {asked.model} is no ONNX graph", "leave --output-name out")
    calibration = open_calibration(asked.calibrate, asked.max_pixels)
    evaluation = open_evaluation(asked.evaluate, asked.max_pixels) if asked.evaluate is not None else None
    given = _given_names(asked)
    listed = given.names if given is not None else evaluation.classes if evaluation is not None else None
    counted = len(listed) if listed is not None else None
    network = _opener(asked)(asked, counted)
    said = _merged(asked.pixels, network.pixels)
    preprocessing = _preprocessing(said, asked.pixels, asked.model)
    mean, std, divided = _statistics(said, asked.model)
    channels = said.channels or "rgb"
    if network.module is not None and not network.classes:
        network = _with_logits(network, preprocessing.image_size, asked.model, counted)
    count = network.classes
    said_names = _said_names(given, asked, network, evaluation)
    images, pixel_range = with_range(
        said.pixel_range or "auto",
        [[spread(calibration, MOST_EMBEDDED)], [evaluation] if evaluation is not None else []],
        lambda known: _decoded(asked, calibration.ranged(known), evaluation, known, preprocessing, count),
    )
    preprocessing = preprocessing.model_copy(update={"pixel_range": pixel_range})
    pool, test, of_images = images
    known, labeled = _in_models_order(
        said_names, asked, evaluation, test, count, _answers(network, mean, std, channels)
    )
    names, notes = known.names, [*network.notes, *known.notes, *of_images]
    if labeled is None:
        notes.append(
            "no labeled images (--evaluate FOLDER): accuracy is unknown; variants are held against the float model's own decisions"
        )
    notes.append(_described(preprocessing, mean, std, channels))
    if divided:
        notes.append("mean and std are for pixels in 0 to 255, by their size: they were divided by 255")
    model, trained = _in_pixels(network, scratch, preprocessing.image_size, mean, std, channels, names)
    return ModelSource(
        name=_name(asked.model),
        model=model,
        trained=trained,
        classes=names,
        preprocessing=preprocessing,
        calibration=pool,
        evaluation=labeled,
        output=Path("export") / _name(asked.model),
        provenance={
            **network.provenance,
            "random_weights": network.random,
            "normalization": {"mean": mean, "std": std},
            "channels": channels,
            "calibrated_on": asked.calibrate,
            "evaluated_on": asked.evaluate,
            "notes": notes,
        },
        notes=notes,
        random=network.random,
    )


def _decoded(
    asked: ModelRequest,
    calibration: Images,
    evaluation: Images | None,
    known: Stated,
    preprocessing: Preprocessing,
    classes: int,
) -> tuple[Candidates, tuple[NDArray[np.uint8], NDArray[np.int64]] | None, list[str]]:
    """The images to calibrate with, those to evaluate on and their labels, and notes on all of them."""
    pool, notes = candidates(calibration, preprocessing, asked.calibration_images, classes)
    if evaluation is None:
        return pool, None, notes
    test, labels, more = pixels(evaluation.ranged(known), preprocessing)
    assert labels is not None
    return pool, (test, labels), [*notes, *more]


def _given_names(asked: ModelRequest) -> Names | None:
    if asked.names is not None:
        return listed_classes(asked.names)
    return read_classes(asked.classes) if asked.classes is not None else None


def _opener(asked: ModelRequest) -> Callable[[ModelRequest, int | None], Network]:
    from edgekit.export.importers import modules

    if asked.module is not None:
        return modules.from_module
    kind = kind_of(asked.model)
    if kind == "onnx":
        from edgekit.export.importers.onnx_file import from_onnx

        return from_onnx
    if kind == "safetensors":
        from edgekit.export.importers.safetensors_file import from_safetensors

        return from_safetensors
    return {"timm": modules.from_timm, "torchvision": modules.from_torchvision, "factory": modules.from_factory}[kind]


def _with_logits(network: Network, size: int, model: str, classes: int | None) -> Network:
    """The network, whatever its answer looks like, as one that gives logits."""
    from edgekit.export.importers.outputs import as_classifier

    assert network.module is not None
    module, count, notes = as_classifier(network.module, size, model, classes)
    return replace(network, module=module, classes=count, notes=[*network.notes, *notes])


def _answers(network: Network, mean: Statistics, std: Statistics, channels: Channels) -> Answers:
    """What the model itself answers: uint8 images (n, s, s, 3) -> logits (n, classes)."""
    if network.graph is not None:
        return network.graph.run(mean, std, channels)
    assert network.module is not None
    module = PixelClassifier(network.module, mean, std, channels).eval()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
        return logits

    return run


def _said_names(given: Names | None, asked: ModelRequest, network: Network, evaluation: Images | None) -> Names | None:
    """The names that the user gave, else the model's own, checked before any image is read; None where only folders may say them."""
    if given is None and network.names is not None:
        given = described(network.names)
    if given is None:
        if evaluation is not None:
            agree(network.classes, asked.model, evaluation.classes, f"--evaluate {asked.evaluate}")
        return None
    agree(network.classes, asked.model, given.names, given.said_by)
    if evaluation is not None and given.places(evaluation.classes) is None:
        unknown = [c for c in evaluation.classes if c not in given.names]
        raise ExportError(
            f"--evaluate: {asked.evaluate}: {len(unknown)} of its classes are not in {asked.classes or given.said_by}: "
            f"{', '.join(unknown[:3])}",
            "a sub-folder has the name of its class" if asked.classes else "say the model's classes: --classes FILE",
        )
    return given


def _in_models_order(
    known: Names | None, asked: ModelRequest, evaluation: Images | None, test: tuple[NDArray[np.uint8], NDArray[np.int64]] | None,
    count: int, answers: Answers,
) -> tuple[Names, tuple[NDArray[np.uint8], NDArray[np.int64]] | None]:  # fmt: skip
    """The names of the classes; images and labels as positions in them rather than in the folders."""
    if evaluation is None or test is None:
        note = f"its classes are called class_0 to class_{count - 1}: nobody named them (--classes FILE)"
        return known or Names(numbered(count), notes=[note]), None
    images, labels = test
    if known is None:
        said_by = f"--evaluate {asked.evaluate}"
        names, notes = ordered(evaluation.classes, images, labels, answers, said_by)
        known = Names(names, said_by, notes)
    found = known.places(evaluation.classes)
    assert found is not None
    places, numbers = found
    return replace(known, notes=[*known.notes, *numbers]), (images, np.array(places, dtype=np.int64)[labels])


def _merged(asked: PixelFormat, network: PixelFormat) -> PixelFormat:
    """What the user said, and for the rest what the network says. A shorter side is for one image size alone, so it scales with it."""
    changes = {f.name: getattr(asked, f.name) for f in fields(PixelFormat) if getattr(asked, f.name) is not None}
    if "resize" not in changes:
        size = changes.get("size", network.size)
        if "fit" in changes and changes["fit"] != network.fit:  # what the network says is about its own way
            changes["resize"] = size if changes["fit"] == "stretch" else None
        elif size is not None and "size" in changes and network.share:
            changes["resize"] = math.floor(size / network.share)
        elif size is not None and "size" in changes and network.resize and network.size:
            changes["resize"] = max(size, int(size * network.resize / network.size))
    return replace(network, **changes)


def _preprocessing(said: PixelFormat, asked: PixelFormat, model: str) -> Preprocessing:
    if said.size is None:
        raise ExportError(f"{model}: does not say which image size it takes", "say it: --size 224")
    whole = said.size <= _SMALL or said.fit == "stretch"
    resize = said.resize or (said.size if whole else said.size * 8 // 7)
    here = f"--size {said.size} --resize {resize}"
    if resize < said.size and asked.resize is not None:
        raise ExportError(f"{here}: leaves a border around the image", "--resize is at least --size")
    try:
        return Preprocessing(
            image_size=said.size,
            resize_to=resize,
            fit=said.fit or "crop",
            interpolation=said.interpolation or "bilinear",
            # Most networks of other origin were trained with torchvision's transforms, or with timm's, which are the same.
            geometry=said.geometry or "torchvision",
            fill=said.fill or (0, 0, 0),
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ExportError(f"{here}: {reason}", "--resize is at least --size") from error


def _statistics(said: PixelFormat, model: str) -> tuple[Statistics, Statistics, bool]:
    """Mean and std for pixels in [0, 1], and whether they were said for pixels in 0 to 255."""
    if said.mean is None or said.std is None:
        raise ExportError(
            f"{model}: does not say how its pixels are normalized, and a wrong guess would cost accuracy silently",
            "give --mean and --std for pixels in [0, 1]: ImageNet's are --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225; "
            "--mean 0 --std 1 if it takes [0, 1]",
        )
    mean, std, divided = in_unit_range(said.mean, said.std, model)
    # A number for each channel costs time in some runtimes; three equal ones are one.
    mean, std = (v[0] if isinstance(v, tuple) and len(set(v)) == 1 else v for v in (mean, std))
    return mean, std, divided


def _in_pixels(
    network: Network, scratch: Path, size: int, mean: Statistics, std: Statistics, channels: Channels, names: list[str]
) -> tuple[Any, Any]:
    """What takes pixels: a module, or a graph on the disk with the foreign graph's own answers."""
    if network.module is not None:
        return PixelClassifier(network.module, mean, std, channels).eval(), None
    assert network.graph is not None
    path = scratch / "rewired.onnx"
    network.graph.write(path, size, mean, std, channels, names)
    answer = network.graph.run(mean, std, channels)
    return path, lambda images: {LOGITS: answer(images)}


def _described(preprocessing: Preprocessing, mean: Statistics, std: Statistics, channels: Channels) -> str:
    p = preprocessing
    center = "" if p.geometry == "torchvision" and p.resize_to == p.image_size else f", the center {p.image_size} px"
    ways = {
        "crop": f"shorter side to {p.resize_to} px, the center {p.image_size} px",
        "stretch": f"stretched to {p.resize_to} px{center}"
        if p.geometry == "torchvision"
        else f"stretched to {p.image_size} px",
        "border": f"longer side to {p.resize_to} px{center}, bordered",
    }
    way = f"{ways[p.fit]}, {p.interpolation}, rounded as {p.geometry} does (--resize-rule)"
    order = "; channels in the order blue, green, red (BGR), mean and std too" if channels == "bgr" else ""
    return f"images: {way}; (pixel / 255 - mean) / std with mean {_said(mean)}, std {_said(std)}{order}"


def _said(values: Statistics) -> str:
    return ", ".join(f"{v:g}" for v in (values if isinstance(values, tuple) else (values,)))


def _name(model: str) -> str:
    """A name for the bundle and its folder."""
    tail = model.rpartition(":")[2]
    stem = Path(tail).stem if kind_of(model) in {"onnx", "safetensors"} else tail
    if stem == "model":  # says nothing; its folder's name may
        stem = Path(tail).resolve().parent.name or stem
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in stem) or "model"
