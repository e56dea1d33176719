"""Importers of torch networks: by name from timm and torchvision, from a user's factory, or from a module."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from edgekit.errors import EdgekitError, ExportError, near, typed_reason_of
from edgekit.export.importers.request import Fit, Interpolation, ModelRequest, Network, PixelFormat
from edgekit.files import sha256
from edgekit.models.checkpoints import read_state_dicts
from edgekit.models.factories import import_factory, source_file
from edgekit.models.named import for_timm, timm_names, torchvision_names
from edgekit.models.trained import TrainedNetwork
from edgekit.models.weights import best_match, load_weights
from edgekit.sizes import ImageSize
from edgekit.text import counted

# torchvision's networks with auxiliary heads, which may transform their input.
_INCEPTIONS = {"googlenet", "inception_v3"}
_INTERPOLATIONS: tuple[Interpolation, ...] = ("bilinear", "bicubic", "lanczos")
_TIMM_SHARE = 0.875  # timm's DEFAULT_CROP_PCT
RANDOM = (
    "its weights are RANDOM (no --weights): use it only to time an architecture; its accuracy and agreement "
    "mean nothing"
)


def from_timm(request: ModelRequest, classes: int | None) -> Network:
    """Import `timm:NAME`, with the preprocessing of timm's configuration.

    Args:
        request: the user's request.
        classes: the required number of classes; None: that of the weights, or timm's default.

    Raises:
        ExportError: timm has no such network, or it cannot be built for the image size.
        RecipeError: the weights are not those of the network.
    """
    import timm

    name = request.model.partition(":")[2]
    if name.partition(".")[0] not in timm_names():
        raise _unknown(request.model, name, timm_names())

    def build(classes: int | None, size: ImageSize | None) -> nn.Module:
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        options |= {} if size is None else {"img_size": for_timm(size)}
        return timm.create_model(name, pretrained=False, **options)

    network = _built(request, classes, build)
    if getattr(network, "num_classes", None) == 0:
        raise ExportError(
            f"{request.model}: timm builds it without a classifier",
            "give the names of its classes (--classes FILE) and the weights of such a classifier (--weights FILE)",
        )
    config = getattr(network, "pretrained_cfg", {})
    return _network(request, network, timm_pixels(config), {"library": f"timm {timm.__version__}"})


def from_torchvision(request: ModelRequest, classes: int | None) -> Network:
    """Import `torchvision:NAME`, with the preprocessing of torchvision's published weights.

    Raises:
        ExportError, RecipeError: as `from_timm`.
    """
    import torchvision
    import torchvision.models as zoo

    name = request.model.partition(":")[2]
    if name not in torchvision_names():
        raise _unknown(request.model, name, torchvision_names())
    once: dict[str, Any] = {}
    notes = []
    if name in _INCEPTIONS:
        published = request.weights is not None and _digest(request.weights) in published_digests(name)
        once = {"aux_logits": False, "init_weights": True, "transform_input": published}
        if request.weights is not None and not published:
            notes.append(
                f"{request.model} is built with transform_input=False; torchvision's published weights, and weights fine-tuned from them, "
                "need True: if yours are such, give a factory that sets it"
            )

    def build(classes: int | None, size: ImageSize | None) -> nn.Module:
        count = {} if classes is None else {"num_classes": classes}
        if size is not None and not size.is_square and name.startswith("vit_"):
            raise ExportError(f"{request.model}: takes only square images, not {size} px", "change --size")
        sized = {} if size is None else {"image_size": size.height}
        return zoo.get_model(name, weights=None, **once, **count, **sized)

    network = _built(request, classes, build)
    transform = zoo.get_model_weights(name).DEFAULT.transforms()
    pixels = PixelFormat(
        size=ImageSize.of(transform.crop_size[0]),
        resize=transform.resize_size[0],
        geometry="torchvision",
        interpolation=_interpolation(transform.interpolation.value),
        mean=_statistics(transform.mean),
        std=_statistics(transform.std),
    )
    opened = _network(request, network, pixels, {"library": f"torchvision {torchvision.__version__}"})
    return replace(opened, notes=[*opened.notes, *notes])


def published_digests(name: str) -> set[str]:
    """The first eight digits of the SHA-256 of torchvision's published weights for a network, from their file names."""
    import torchvision.models as zoo

    return {weights.url.rpartition("-")[2].partition(".")[0] for weights in zoo.get_model_weights(name)}


def _digest(path: str) -> str:
    try:
        return sha256(Path(path).expanduser())[:8]
    except OSError:  # loading the file reports this
        return ""


def from_factory(request: ModelRequest, classes: int | None) -> Network:
    """Import `package.module:factory`: called without arguments, it returns a network that maps normalized images to logits.

    Raises:
        ExportError: the factory fails or returns no network.
        RecipeError: the factory cannot be imported, or the weights do not fit the network.
    """
    module, _, name = request.model.partition(":")
    factory = import_factory(module, name, request.model)
    try:
        network = factory()
    except EdgekitError:
        raise
    except Exception as error:  # the user's own code
        raise ExportError(
            f"{request.model}: the factory fails: {typed_reason_of(error)}",
            "it is called without arguments and must return the network",
        ) from error
    if not isinstance(network, nn.Module):
        raise ExportError(
            f"{request.model}: returns a {type(network).__name__}, not an nn.Module", "return the network"
        )
    if request.weights is not None:
        _check_count(request, network, classes)
    opened = _network(request, network, PixelFormat(), {"source_sha256": sha256(source_file(module, request.model))})
    if request.weights is None:
        note = "its weights are those of the factory: RANDOM unless it loads some (or give --weights)"
        opened = replace(opened, random=False, notes=[note])
    return opened


def from_module(request: ModelRequest, classes: int | None) -> Network:
    """Import a network from Python: a copy in evaluation mode on the CPU is exported.

    A network of a run has its classes, its preprocessing and its normalization with it.

    Raises:
        ExportError: the network cannot be copied, or weights are given as well.
    """
    assert request.module is not None
    if request.weights is not None or request.weights_key is not None:
        raise ExportError(
            "weights: not allowed with a network from Python", "load them into the network before exporting it"
        )
    try:
        network = copy.deepcopy(request.module).cpu().eval()
    except Exception as error:  # the network's own code, or tensors that are part of a computation
        raise ExportError(
            f"{request.model}: cannot be copied: {typed_reason_of(error)}", "detach its tensors first"
        ) from error
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(safetensors.torch.save({name: tensor.contiguous()}))
    pixels, names = PixelFormat(), None
    if isinstance(network, TrainedNetwork):
        p = network.preprocessing
        pixels = PixelFormat(
            p.image_size, p.resize_to, p.interpolation, p.fit, network.mean, network.std, p.geometry, p.fill,
            pixel_range=p.pixel_range,
        )  # fmt: skip
        if not network.classes:
            raise ExportError(f"{request.model}: an encoder has no classes", "export a run's student or teacher")
        names = network.classes
    provenance = {"model": request.model, "weights": "of the network itself", "weights_sha256": digest.hexdigest()}
    return Network(network, 0, pixels, provenance, names=names)


def _built(
    request: ModelRequest, classes: int | None, build: Callable[[int | None, ImageSize | None], nn.Module]
) -> nn.Module:
    """Build a library's network, with as many classes as the names or the weights have."""
    size = request.pixels.size
    try:
        if request.weights is not None:
            # Built with the named classes: by default a network may have no classifier (EVA-02's small ones).
            in_file = _check_count(request, build(classes, None), classes)
            classes = in_file if classes is None else classes
        if size is not None:
            with contextlib.suppress(TypeError):  # convolutional networks take no image size
                return build(classes, size)
        return build(classes, None)
    except EdgekitError:
        raise
    except Exception as error:  # whatever the library's code raises
        where = f" for images of {size} px" if size is not None else ""
        raise ExportError(
            f"{request.model}: cannot be built{where}: {typed_reason_of(error)}", "change --size"
        ) from error


def _check_count(request: ModelRequest, network: nn.Module, classes: int | None) -> int | None:
    """The number of classes in a file of weights, from the shape of the network's last layer; None if unknown."""
    assert request.weights is not None
    states = read_state_dicts(request.weights, "--weights", request.weights_key)
    match, *_ = best_match(states, network.state_dict())
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    last = match.tensors().get(f"{layers[-1]}.weight") if layers else None
    if last is None:
        return None
    count = int(last.shape[0])
    if classes is not None and classes != count:
        raise ExportError(
            f"--weights: {request.weights}: has {counted(count, 'class', 'classes')}, but "
            f"{'--classes' if request.classes else '--evaluate'} names {classes}",
            "the names must be the model's own, in the order of its logits (--classes FILE)",
        )
    return count


def _network(request: ModelRequest, network: nn.Module, pixels: PixelFormat, provenance: dict[str, Any]) -> Network:
    """Load the requested weights into a network; return it with its provenance."""
    notes, loaded = [RANDOM], None
    if request.weights_key is not None and request.weights is None:
        raise ExportError(
            f"--weights-key {request.weights_key}: no file of weights was given", "give it: --weights FILE"
        )
    if request.weights is not None:
        loaded = load_weights(network, request.weights, "--weights", request.model, request.weights_key)
        notes = [f"weights: {loaded}"]
    provenance = {
        "model": request.model,
        **provenance,
        "weights": request.weights or "random",
        "weights_file_sha256": loaded.sha256 if loaded else None,
        "weights_key": loaded.key if loaded else None,
        "weights_averaged": loaded.averaged if loaded else None,
        "weights_report": str(loaded) if loaded else None,
    }
    return Network(network.eval(), 0, pixels, provenance, notes=notes, random=loaded is None)


def timm_pixels(config: Mapping[str, Any]) -> PixelFormat:
    """The preprocessing in timm's configuration of a network (`pretrained_cfg`)."""
    size = ImageSize.of(tuple(config.get("input_size", (3, 224, 224))[1:]))
    share = float(config.get("crop_pct") or _TIMM_SHARE)
    mean = _statistics(config.get("mean", (0.5, 0.5, 0.5)))
    fits: dict[Any, Fit] = {"squash": "stretch", "border": "border"}
    fit = fits.get(config.get("crop_mode"), "crop")
    red, green, blue = (round(255 * v) for v in mean)
    return PixelFormat(
        size=size,
        resize=math.floor(size.shorter / share),
        interpolation=_interpolation(config.get("interpolation", "bilinear")),
        fit=fit,
        mean=mean,
        std=_statistics(config.get("std", (0.5, 0.5, 0.5))),
        geometry="torchvision",
        fill=(red, green, blue) if fit == "border" else None,
        share=share,
    )


def _interpolation(name: str) -> Interpolation:
    return next((known for known in _INTERPOLATIONS if known == name), "bilinear")


def _statistics(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _unknown(model: str, name: str, known: frozenset[str]) -> ExportError:
    library = model.partition(":")[0]
    return ExportError(
        f"{model}: {library} has no network {name!r}", near(name, sorted(known)) or f"see {library}'s list of networks"
    )
