"""The teacher of `pretrain.method: distill`: a pretrained encoder, frozen, with its own normalization and image size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import RecipeError
from edgekit.files import sha256
from edgekit.models.checkpoints import digest_of_weights
from edgekit.models.encoders import Normalization, build_encoder
from edgekit.models.factories import network_of, source_file, users_code
from edgekit.models.pixels import Statistics, per_channel, resized
from edgekit.models.positions import interpolated
from edgekit.models.pretrained import Published, published, three
from edgekit.models.store import load_classifier, load_pretrained
from edgekit.models.weights import LoadedWeights, load_weights
from edgekit.recipe import PRETRAINED, Architecture, DataConfig, EncoderTeacher
from edgekit.run import Run
from edgekit.sizes import ImageSize, SizeLike
from edgekit.stages import MODEL_OF

WHERE = "pretrain.teacher"
_STRIDE = 32  # pixels: the total stride of most networks


class FrozenEncoder:
    """A teacher: in evaluation mode, without gradients, and not part of the checkpoint.

    Args:
        network: maps images (n, 3, h, w) with its own normalization to features (n, d), or maps (n, d, h, w), which are averaged.
        image_size: h and w, in pixels; images of another size are resized (bicubic, antialiased).
        own: mean and standard deviation of its normalization.
        data: image size and normalization of the images that it gets.
        title: its name, for the output.
        loaded: what came from a file of weights.
    """

    def __init__(
        self,
        network: nn.Module,
        image_size: SizeLike,
        own: Normalization,
        data: DataConfig,
        title: str,
        loaded: LoadedWeights | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.image_size = ImageSize.of(image_size)
        self.own, self.given = own, (data.mean, data.std)
        self.title = title
        self.loaded = loaded
        self.device = torch.device("cpu")
        with torch.random.fork_rng(devices=[]):
            self.width = int(self(torch.zeros(2, 3, *data.image_size)).shape[1])

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (n, d) of images (n, 3, h, w) with the student's size and normalization."""
        if images.device != self.device:
            self.device, self.network = images.device, self.network.to(images.device)
        features = self.network(self._seen(images))
        if isinstance(features, Tensor) and features.ndim == 4:
            features = features.mean((2, 3))
        if not isinstance(features, Tensor) or features.ndim != 2:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise RecipeError(
                f"{WHERE}: {self.title}: returned {shape} for {len(images)} images, not features ({len(images)}, d)",
                "wrap the network so that it returns one vector per image",
            )
        return features

    def _seen(self, images: Tensor) -> Tensor:
        """Images with the teacher's size and normalization."""
        images = resized(images, self.image_size, *self.given)
        if self.own == self.given:
            return images
        with torch.autocast(images.device.type, enabled=False):
            (mean, std), (own_mean, own_std) = (
                [per_channel(v, images) for v in pair] for pair in (self.given, self.own)
            )
            return ((images.float() * std + (mean - own_mean)) / own_std).contiguous(memory_format=torch.channels_last)


class AsEncoder(nn.Module):
    """A teacher as a module that is evaluated like an encoder."""

    def __init__(self, teacher: FrozenEncoder) -> None:
        super().__init__()
        self.network = teacher.network
        self.teacher = teacher

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, d) of images (n, 3, h, w) with the student's size and normalization."""
        return self.teacher(images)


def load_encoder_teacher(source: EncoderTeacher, data: DataConfig, run: Run) -> FrozenEncoder:
    """Load the teacher of a recipe.

    Args:
        source: `pretrain.teacher`.
        data: image size and normalization of the student's images.
        run: the run that trains, which cannot teach itself.

    Raises:
        EdgekitError: it cannot be found, fetched, imported or loaded, or does not take such images.
    """
    assert source.model is not None
    if source.library is not None:
        return _of_library(source, data)
    if source.factory is not None:
        return _of_factory(source, data)
    return _of_run(source.model, data, run)


def teacher_identity(source: EncoderTeacher, run: Run) -> dict[str, Any]:
    """Return the identity of a teacher, for the inputs of the stage: the digest of its weights, or where published ones come from.

    Raises:
        EdgekitError: it cannot be found.
    """
    assert source.model is not None
    keys: dict[str, Any] = source.model_dump(include={"weights_key", "image_size", "mean", "std"}, exclude_none=True)
    if source.weights not in {None, PRETRAINED}:
        assert source.weights is not None
        keys["weights"] = digest_of_weights(source.weights, f"{WHERE}.weights")
    if source.library is not None:
        library, name = source.library
        origin = {} if "weights" in keys else {"published": published(library, name, f"{WHERE}.model").source}
        return {"network": source.model, **origin, **keys}
    if source.factory is not None:
        return {
            "factory": source.model,
            "source": sha256(source_file(source.factory[0], f"{WHERE}: {source.model}")),
            **keys,
        }
    other, stage = locate_encoder(source.model, run)
    pixels = other.recipe.data
    return {"model": other.require(stage).outputs["model.safetensors"], "mean": pixels.mean, "std": pixels.std}


def locate_encoder(where: str, run: Run) -> tuple[Run, str]:
    """Return the run and the stage of a path: the folder of a run (its pretrained encoder), or of one of its stages.

    Raises:
        EdgekitError: there is no such run, or it is the one that trains.
    """
    path = Path(where).expanduser()
    stage = path.name if (path / "model.json").is_file() and path.name in {"pretrain", *MODEL_OF} else ""
    if path.is_file():
        raise RecipeError(
            f"{WHERE}.model: {where} is a file, which does not say what network it is of",
            "name the network (timm:NAME, torchvision:NAME or module:factory), and the file as `weights`",
        )
    other = Run.open(path.parent if stage else path)
    if other.path.resolve() == run.path.resolve():
        raise RecipeError(f"{WHERE}.model: {where} is the run that trains", "name another run")
    return other, stage or "pretrain"


def _of_library(source: EncoderTeacher, data: DataConfig) -> FrozenEncoder:
    """A network of timm or torchvision, with published weights or a file's."""
    assert source.library is not None
    library, name = source.library
    weights = source.weights or PRETRAINED
    known = published(library, name, f"{WHERE}.model") if weights == PRETRAINED else _known(library, name)
    size = source.image_size or (_in_shape(known, data.image_size) if known is not None else data.image_size)
    architecture = Architecture(
        name=f"{library}:{name}", weights=weights, weights_key=source.weights_key,
        interpolate_positions=source.interpolate_positions,
    )  # fmt: skip
    own = (
        source.mean if source.mean is not None else known.mean if known is not None else data.mean,
        source.std if source.std is not None else known.std if known is not None else data.std,
    )
    encoder = build_encoder(architecture, size, WHERE, own)
    encoder.without_conversion()
    return _checked(encoder, size, own, data, f"{library}:{name}", encoder.loaded)


def _in_shape(known: Published, wanted: ImageSize) -> ImageSize:
    """Return the default size of the teacher's images: as many pixels as it was trained with, in the shape of the student's.

    A network that takes one size only keeps it, and sees the images stretched.
    """
    if known.fixed_size or wanted.is_square:
        return known.image_size
    shorter = math.sqrt(known.image_size.pixels * min(wanted) / max(wanted))
    height, width = (max(_STRIDE, round(side * shorter / wanted.shorter / _STRIDE) * _STRIDE) for side in wanted)
    return ImageSize(height, width)


def _known(library: str, name: str) -> Any:
    """What is published of a network whose weights come from a file; None for nothing."""
    try:
        return published(library, name, WHERE)
    except RecipeError:
        return None


def _of_factory(source: EncoderTeacher, data: DataConfig) -> FrozenEncoder:
    assert source.factory is not None
    where = f"{WHERE}: {source.model}"
    network = network_of(source.factory, where)
    config = getattr(network, "pretrained_cfg", None) or {}  # of a network of timm
    mean: Statistics = (
        source.mean if source.mean is not None else three(config["mean"]) if "mean" in config else data.mean
    )
    std: Statistics = source.std if source.std is not None else three(config["std"]) if "std" in config else data.std
    loaded = None
    if source.weights is not None:
        adapt = interpolated if source.interpolate_positions else None
        loaded = load_weights(network, source.weights, WHERE, weights_key=source.weights_key, adapt=adapt)
    return _checked(network, source.image_size or data.image_size, (mean, std), data, str(source.model), loaded)


def _of_run(where: str, data: DataConfig, run: Run) -> FrozenEncoder:
    other, stage = locate_encoder(where, run)
    load = load_pretrained if stage == "pretrain" else load_classifier
    model = load(other.stage_path(stage), other.require(stage).outputs)
    its = other.recipe.data
    return _checked(model.encoder, model.image_size, (its.mean, its.std), data, f"{other.path.name}/{stage}", None)


def _checked(
    network: nn.Module, size: ImageSize, own: Normalization, data: DataConfig, title: str, loaded: LoadedWeights | None
) -> FrozenEncoder:
    """Try the teacher on images.

    Raises:
        RecipeError: it does not take images of three channels and this size.
    """
    hint = f"it must take three channels; set {WHERE}.image_size to the size that it takes"
    with users_code(f"{WHERE}: {title}: fails on images {(2, 3, *size)}", hint):
        return FrozenEncoder(network, size, own, data, title, loaded)
