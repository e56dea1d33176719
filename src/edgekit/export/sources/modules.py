"""Networks of torch: by name from timm and torchvision, from a user's own factory, or from weights that say what they are of."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import EdgekitError, ExportError, near
from edgekit.export.sources.asked import Asked, Fit, Interpolation, Network, Pixels
from edgekit.files import sha256
from edgekit.models.encoders import timm_names, torchvision_names
from edgekit.models.factories import import_factory, source_file
from edgekit.models.weights import load_weights, read_tensors

_INTERPOLATIONS: tuple[Interpolation, ...] = ("bilinear", "bicubic", "lanczos")
_TIMM_SHARE = 0.875  # timm's DEFAULT_CROP_PCT
RANDOM = (
    "its weights are RANDOM (no --weights): good for timing an architecture and for nothing else; what is said about accuracy and "
    "agreement means nothing"
)


def from_timm(asked: Asked, classes: int | None) -> Network:
    """`timm:NAME`, preprocessed as timm's configuration of it says.

    Args:
        asked: what the user said.
        classes: how many the network must have; None leaves it to the weights, or to timm.

    Raises:
        ExportError: timm has no such network, or it cannot be built for the image size.
        RecipeError: the weights are not those of the network.
    """
    import timm

    name = asked.model.partition(":")[2]
    if name.partition(".")[0] not in timm_names():
        raise _unknown(asked.model, name, timm_names())

    def build(classes: int | None, size: int | None) -> nn.Module:
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        options |= {} if size is None else {"img_size": size}
        return timm.create_model(name, pretrained=False, **options)

    network = _built(asked, classes, build)
    config = getattr(network, "pretrained_cfg", {})
    opened = _network(asked, network, timm_pixels(config), {"library": f"timm {timm.__version__}"})
    _, height, width = config.get("input_size", (3, 0, 0))
    if height == width or asked.pixels.size is not None:
        return opened
    note = f"{asked.model}: timm feeds it {width} x {height} pixels; edgekit takes squares alone, here of {width}"
    return replace(opened, notes=[*opened.notes, note])


def from_torchvision(asked: Asked, classes: int | None) -> Network:
    """`torchvision:NAME`, preprocessed as the weights that torchvision publishes for it are.

    Raises:
        ExportError, RecipeError: as `from_timm`.
    """
    import torchvision
    import torchvision.models as zoo

    name = asked.model.partition(":")[2]
    if name not in torchvision_names():
        raise _unknown(asked.model, name, torchvision_names())
    once = {"aux_logits": False, "init_weights": True} if name in {"googlenet", "inception_v3"} else {}

    def build(classes: int | None, size: int | None) -> nn.Module:
        count = {} if classes is None else {"num_classes": classes}
        return zoo.get_model(name, weights=None, **once, **count, **({} if size is None else {"image_size": size}))

    network = _built(asked, classes, build)
    published = zoo.get_model_weights(name).DEFAULT.transforms()
    pixels = Pixels(
        size=published.crop_size[0],
        resize=published.resize_size[0],
        geometry="torchvision",
        interpolation=_interpolation(published.interpolation.value),
        mean=_statistics(published.mean),
        std=_statistics(published.std),
    )
    return _network(asked, network, pixels, {"library": f"torchvision {torchvision.__version__}"})


def from_factory(asked: Asked, classes: int | None) -> Network:
    """`package.module:factory`: called without arguments, it gives a network that maps normalised images to logits.

    Raises:
        ExportError: it fails, or gives no network.
        RecipeError: it cannot be imported, or the weights are not those of the network.
    """
    module, _, name = asked.model.partition(":")
    factory = import_factory(module, name, asked.model)
    try:
        network = factory()
    except EdgekitError:
        raise
    except Exception as error:  # the user's own code
        raise ExportError(
            f"{asked.model}: fails: {_reason(error)}", "it is called without arguments and gives the network"
        ) from error
    if not isinstance(network, nn.Module):
        raise ExportError(f"{asked.model}: gives a {type(network).__name__}, not an nn.Module", "return the network")
    if asked.weights is not None:
        _check_count(asked, network, classes)
    opened = _network(asked, network, Pixels(), {"source_sha256": sha256(source_file(module, asked.model))})
    if asked.weights is None:
        note = "its weights are what the factory gives: RANDOM ones unless it loads some (or give --weights)"
        opened = replace(opened, random=False, notes=[note])
    return opened


def count_of_logits(network: nn.Module, size: int, model: str) -> int:
    """How many logits a network gives for normalised images (n, 3, size, size).

    Raises:
        ExportError: it fails on them, or gives something else than logits (n, classes).
    """
    try:
        with torch.no_grad():
            logits = network.eval()(torch.zeros(2, 3, size, size))
    except Exception as error:  # the user's own code, or a network that such images do not fit
        raise ExportError(
            f"{model}: fails on images of {size} px: {_reason(error)}", "give the --size that it takes"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ExportError(
            f"{model}: gives {shape} for two images, not logits (2, classes)", "wrap it in a factory that gives them"
        )
    return int(logits.shape[1])


def _built(asked: Asked, classes: int | None, build: Callable[[int | None, int | None], nn.Module]) -> nn.Module:
    """A network of a library, its classifier as wide as the names or the weights say."""
    size = asked.pixels.size
    try:
        if asked.weights is not None:
            in_file = _check_count(asked, build(None, None), classes)
            classes = in_file if classes is None else classes
        if size is not None:
            with contextlib.suppress(TypeError):  # convolutional networks take no image size
                return build(classes, size)
        return build(classes, None)
    except (AssertionError, ValueError, RuntimeError, ZeroDivisionError, TypeError) as error:
        where = f" for images of {size} px" if size is not None else ""
        raise ExportError(f"{asked.model}: cannot be built{where}: {_reason(error)}", "change --size") from error


def _check_count(asked: Asked, network: nn.Module, classes: int | None) -> int | None:
    """How many classes the file of weights is for, found by the network's last layer; None where that cannot be told."""
    assert asked.weights is not None
    tensors = read_tensors(asked.weights, "--weights")
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    found = [t for name, t in tensors.items() if layers and f".{name}".endswith(f".{layers[-1]}.weight")]
    if len(found) != 1:
        return None
    count = int(found[0].shape[0])
    if classes is not None and classes != count:
        raise ExportError(
            f"--weights: {asked.weights}: has {count} classes, {'--classes' if asked.classes else '--evaluate'} {classes}",
            "the names must be the model's own, in the order of its logits (--classes FILE)",
        )
    return count


def _network(asked: Asked, network: nn.Module, pixels: Pixels, provenance: dict[str, Any]) -> Network:
    """Fill a network with the weights that were asked for, and say where all of it came from."""
    notes, loaded = [RANDOM], None
    if asked.weights is not None:
        loaded = load_weights(network, asked.weights, "--weights", asked.model)
        notes = [f"weights: {loaded}"]
    provenance = {
        "model": asked.model,
        **provenance,
        "weights": asked.weights or "random",
        "weights_file_sha256": loaded.sha256 if loaded else None,
        "weights_report": str(loaded) if loaded else None,
    }
    return Network(network.eval(), 0, pixels, provenance, notes=notes, random=loaded is None)


def timm_pixels(config: Mapping[str, Any]) -> Pixels:
    """The preprocessing in timm's configuration of a network (`pretrained_cfg`)."""
    size = int(config.get("input_size", (3, 224, 224))[-1])
    share = float(config.get("crop_pct") or _TIMM_SHARE)
    mean = _statistics(config.get("mean", (0.5, 0.5, 0.5)))
    fits: dict[Any, Fit] = {"squash": "stretch", "border": "border"}
    fit = fits.get(config.get("crop_mode"), "crop")
    red, green, blue = (round(255 * v) for v in mean)
    return Pixels(
        size=size,
        resize=math.floor(size / share),
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
        f"{model}: {library} has no network {name!r}", near(name, sorted(known)) or f"see {library}'s own list"
    )


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
