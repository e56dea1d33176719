"""Importer of `model.safetensors`: weights, with a file beside them that describes the network.

Two programs write such a description: edgekit itself (`model.json`, see `edgekit.models.store`) and timm (`config.json`, from
`timm.models.save_for_hf` or downloaded from its hub).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.data.ranges import of_run
from edgekit.errors import EdgekitError, ExportError
from edgekit.export.importers.modules import from_timm, timm_pixels
from edgekit.export.importers.request import ModelRequest, Network, PixelFormat
from edgekit.files import sha256
from edgekit.foreign import Unreadable, read_json, understood
from edgekit.models.store import FILES, load_classifier
from edgekit.run import Run

_TIMM = "config.json"


def from_safetensors(request: ModelRequest, classes: int | None) -> Network:
    """Build the network that the file beside the weights describes, and load them.

    Raises:
        ExportError: no file beside the weights describes the network.
        RunError, RecipeError: the description is damaged, or the weights do not fit the network.
    """
    path = Path(request.model).expanduser()
    if not path.is_file():
        raise ExportError(f"{request.model}: no such file", "give the path of a .safetensors file")
    if request.weights is not None or request.weights_key is not None:
        option = "--weights" if request.weights is not None else "--weights-key"
        raise ExportError(
            f"{option}: {request.model} already holds the weights",
            "leave it out, or load a file into a named network: timm:NAME --weights FILE",
        )
    if path.name == FILES[1] and (path.parent / FILES[0]).is_file():
        return _of_edgekit(path)
    if (path.parent / _TIMM).is_file():
        return _of_timm(request, path, classes)
    raise ExportError(
        f"{request.model}: no file beside it describes the network of these weights (edgekit's {FILES[0]} or timm's {_TIMM})",
        f"name the network: edgekit export timm:NAME --weights {request.model}, or torchvision:NAME, or package.module:factory",
    )


def _of_edgekit(path: Path) -> Network:
    digest = sha256(path)
    classifier = load_classifier(path.parent, {path.name: digest})
    pixels = PixelFormat(size=classifier.image_size, geometry="edgekit")
    try:  # a stage's folder: the run's recipe gives the preprocessing
        run = Run.open(path.parent.parent)
        data = run.recipe.data
        known = data.preprocessing()
        pixels = PixelFormat(
            known.image_size, known.resize_to, known.interpolation, known.fit, data.mean, data.std, known.geometry,
            pixel_range=of_run(run) or "dtype",
        )  # fmt: skip
    except EdgekitError:
        pass
    provenance = {"model": str(path), "weights": str(path), "weights_file_sha256": digest}
    return Network(classifier, len(classifier.classes), pixels, provenance, names=classifier.classes)


def _of_timm(request: ModelRequest, path: Path, classes: int | None) -> Network:
    config = path.parent / _TIMM
    try:
        content: dict[str, Any] = read_json(config)
        with understood(config, "timm's description of a network"):
            pretrained_cfg: dict[str, Any] = content.get("pretrained_cfg", {})
            names = content.get("label_names") or pretrained_cfg.get("label_names")
            name, count, pixels = str(content["architecture"]), content.get("num_classes"), timm_pixels(pretrained_cfg)
    except Unreadable as error:
        raise ExportError(
            f"{config}: is not timm's description of a network",
            f"name the network: timm:NAME --weights {request.model}",
        ) from error
    # The description gives the number of classes; the folders of labeled images may cover only some of them.
    if request.classes is not None or count is None:
        count = classes
    opened = from_timm(replace(request, model=f"timm:{name}", weights=str(path)), count)
    return replace(
        opened,
        pixels=pixels,
        provenance={**opened.provenance, "model": request.model, "architecture": name},
        names=[str(n) for n in names] if isinstance(names, list) else None,
    )
