"""A model of the user's own: which kind it is, its classes, its pixels, its images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edgekit.data.ranges import Stated, with_range
from edgekit.data.source import Source as Images
from edgekit.errors import ExportError
from edgekit.export.int8.selection import MOST_EMBEDDED, Candidates
from edgekit.export.sources.answers import count_of_classes
from edgekit.export.sources.asked import Asked, Network, Pixels
from edgekit.export.sources.classes import agree, numbered, read_classes
from edgekit.export.sources.images import candidates, open_calibration, open_evaluation, pixels, spread
from edgekit.export.sources.kinds import kind_of
from edgekit.export.sources.source import Source
from edgekit.export.sources.statistics import in_unit_range
from edgekit.models.pixels import Channels, PixelClassifier, Statistics
from edgekit.preprocess import Preprocessing
from edgekit.runtimes.session import OUTPUT

_SMALL = 64  # px: up to here nothing is cut off around the centre, as in a recipe


def bring(asked: Asked, scratch: Path) -> Source:
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
    names, said_by = _names(asked, evaluation)
    network = _opener(asked.model)(asked, len(names) if names is not None else None)
    if names is None and network.names is not None:
        names, said_by = network.names, "its description"
    said = _merged(asked.pixels, network.pixels)
    preprocessing = _preprocessing(said, asked.pixels, asked.model)
    mean, std, divided = _statistics(said, asked.model)
    channels = said.channels or "rgb"
    count = network.classes
    if network.module is not None and not count:
        from edgekit.export.sources.modules import count_of_logits

        count = count_of_logits(network.module, preprocessing.image_size, asked.model)
    if network.module is not None:
        network, count = _with_logits(network, count, preprocessing.image_size, asked.model)
    agree(count, asked.model, names, said_by)
    notes = list(network.notes)
    if names is None:
        notes.append(f"its classes are called class_0 to class_{count - 1}: nobody named them (--classes FILE)")
        names = numbered(count)
    images, pixel_range = with_range(
        said.pixel_range or "auto",
        [[spread(calibration, MOST_EMBEDDED)], [evaluation] if evaluation is not None else []],
        lambda known: _decoded(asked, calibration.ranged(known), evaluation, known, preprocessing, count),
    )
    preprocessing = preprocessing.model_copy(update={"pixel_range": pixel_range})
    pool, test, of_images = images
    notes += of_images
    labelled = None
    if evaluation is not None and test is not None:
        labelled = test[0], _as_in(names, evaluation, test[1])
    else:
        notes.append(
            "no labelled images (--evaluate FOLDER): accuracy is unknown; variants are held against the float model's own decisions"
        )
    notes.append(_described(preprocessing, mean, std, channels))
    if divided:
        notes.append("mean and std are for pixels in 0 to 255, by their size: they were divided by 255")
    model, trained = _in_pixels(network, scratch, preprocessing.image_size, mean, std, channels, names)
    return Source(
        name=_name(asked.model),
        model=model,
        trained=trained,
        classes=names,
        preprocessing=preprocessing,
        calibration=pool,
        evaluation=labelled,
        output=Path("export") / _name(asked.model),
        provenance={
            **network.provenance,
            "random_weights": network.random,
            "normalisation": {"mean": mean, "std": std},
            "channels": channels,
            "calibrated_on": asked.calibrate,
            "evaluated_on": asked.evaluate,
            "notes": notes,
        },
        notes=notes,
        random=network.random,
    )


def _decoded(
    asked: Asked,
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


def _opener(model: str) -> Callable[[Asked, int | None], Network]:
    kind = kind_of(model)
    if kind == "onnx":
        from edgekit.export.sources.onnx_file import from_onnx

        return from_onnx
    if kind == "safetensors":
        from edgekit.export.sources.safetensors_file import from_safetensors

        return from_safetensors
    from edgekit.export.sources import modules

    return {"timm": modules.from_timm, "torchvision": modules.from_torchvision, "factory": modules.from_factory}[kind]


def _names(asked: Asked, evaluation: Images | None) -> tuple[list[str] | None, str]:
    """The names of the classes, and who said them."""
    if asked.classes is None:
        return (None, "") if evaluation is None else (list(evaluation.classes), f"--evaluate {asked.evaluate}")
    names = read_classes(asked.classes)
    if evaluation is not None and (unknown := [c for c in evaluation.classes if c not in names]):
        raise ExportError(
            f"--evaluate: {asked.evaluate}: {len(unknown)} of its classes are not in {asked.classes}: {', '.join(unknown[:3])}",
            "a sub-folder has the name of its class",
        )
    return names, f"--classes {asked.classes}"


def _as_in(names: list[str], evaluation: Images, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels as positions in the model's classes rather than in the folder's."""
    return np.array([names.index(name) for name in evaluation.classes], dtype=np.int64)[labels]


def _merged(asked: Pixels, network: Pixels) -> Pixels:
    """What the user said, and for the rest what the network says. A shorter side is for one image size alone, so it scales with it."""
    changes = {f.name: getattr(asked, f.name) for f in fields(Pixels) if getattr(asked, f.name) is not None}
    if "resize" not in changes:
        size = changes.get("size", network.size)
        if "fit" in changes and changes["fit"] != network.fit:  # what the network says is about its own way
            changes["resize"] = size if changes["fit"] == "stretch" else None
        elif size is not None and "size" in changes and network.share:
            changes["resize"] = math.floor(size / network.share)
        elif size is not None and "size" in changes and network.resize and network.size:
            changes["resize"] = max(size, int(size * network.resize / network.size))
    return replace(network, **changes)


def _preprocessing(said: Pixels, asked: Pixels, model: str) -> Preprocessing:
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


def _statistics(said: Pixels, model: str) -> tuple[Statistics, Statistics, bool]:
    """Mean and std for pixels in [0, 1], and whether they were said for pixels in 0 to 255."""
    if said.mean is None or said.std is None:
        raise ExportError(
            f"{model}: does not say how its pixels are normalised, and a wrong guess would cost accuracy silently",
            "give --mean and --std for pixels in [0, 1]: ImageNet's are --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225; "
            "--mean 0 --std 1 if it takes [0, 1]",
        )
    mean, std, divided = in_unit_range(said.mean, said.std, model)
    # A number for each channel costs time in some runtimes; three equal ones are one.
    mean, std = (v[0] if isinstance(v, tuple) and len(set(v)) == 1 else v for v in (mean, std))
    return mean, std, divided


def _with_logits(network: Network, count: int, size: int, model: str) -> tuple[Network, int]:
    """A network of torch that gives logits, whatever it gives itself, and how many."""
    from edgekit.export.sources.module_output import WithLogits, reading_of

    assert network.module is not None
    reading = reading_of(network.module, size, model)
    if reading == "logits":
        return network, count
    note = {
        "one logit": "gives one number: the logit of the second of two classes; the first one's is 0",
        "one probability": "gives one probability, of the second of two classes: its logits are their logarithms",
        "probabilities": "gives probabilities: the bundle's logits are their logarithms",
    }[reading]
    wrapped = WithLogits(network.module, reading)
    return replace(network, module=wrapped, notes=[*network.notes, f"{model}: {note}"]), count_of_classes(
        count, reading
    )


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
    return path, lambda images: {OUTPUT: answer(images)}


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
