"""Models on disk: `model.json` describes the network, `model.safetensors` holds the weights. No pickle; strict loading."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import safetensors.torch
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from torch import Tensor, nn

from edgekit.errors import EdgekitError, RunError, shortened
from edgekit.files import write_bytes, write_json
from edgekit.foreign import Unreadable, parse_json, read_bytes, understood
from edgekit.models.anomaly.detector import Detector, HeadSpec
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import Encoder, Normalization, build_encoder
from edgekit.models.heads import ProjectionHead
from edgekit.models.weight_files import read_safetensors
from edgekit.recipe import Architecture
from edgekit.sizes import LEAST_SIDE, MOST_SIDE, ImageSize, SizeBounds, SizeLike
from edgekit.spelling import translated_keys
from edgekit.validation import first_problem

_Width = Annotated[int, Field(ge=1, le=1 << 16)]
FILES = ["model.json", "model.safetensors"]
_NONE: Mapping[str, str] = MappingProxyType({})


def save_classifier(folder: Path, model: Classifier) -> list[str]:
    """Write a classifier; return the names of its files."""
    spec = {
        "kind": "classifier",
        **_described(model.architecture, model.encoder),
        "image_size": model.image_size.plain,
        "classes": model.classes,
        "kept_widths": model.kept.widths(),
    }
    return _save(folder, spec, model)


def _described(architecture: Architecture, encoder: Encoder) -> dict[str, Any]:
    """Describe an encoder; `normalization` is that of its images if the network has another one. Older files lack these keys."""
    left_out = {"weights", "weights_key", "interpolate_positions", "mean", "std"}
    left_out |= {"channels"} if architecture.channels is None else set()
    content = architecture.model_dump(mode="json", exclude=left_out)
    if encoder.own is None or encoder.given is None:
        return {"architecture": content}
    (mean, std), (given_mean, given_std) = encoder.own, encoder.given
    return {
        "architecture": {**content, "mean": mean, "std": std},
        "normalization": {"mean": given_mean, "std": given_std},
    }


class _Normalization(BaseModel):
    mean: float | tuple[float, float, float]
    std: float | tuple[float, float, float]


class _Head(BaseModel):
    hidden: _Width
    output: _Width
    layers: int = Field(ge=1, le=64)
    normalize_output: bool = False

    @model_validator(mode="before")
    @classmethod
    def _earlier_names(cls, content: Any) -> Any:
        return translated_keys(content, cls.model_fields) if isinstance(content, dict) else content


class _Described(BaseModel):
    """The content of `model.json`, within limits: a foreign file could ask for any amount of memory."""

    architecture: Architecture
    image_size: Annotated[ImageSize, SizeBounds(LEAST_SIDE, MOST_SIDE)]
    normalization: _Normalization | None = None

    @property
    def given(self) -> Normalization | None:
        """Mean and standard deviation of the images."""
        return None if self.normalization is None else (self.normalization.mean, self.normalization.std)

    @field_validator("architecture")
    @classmethod
    def _weights_are_beside(cls, architecture: Architecture) -> Architecture:
        return architecture.model_copy(update={"weights": None})  # a foreign description must not open another file


class _Classifier(_Described):
    classes: list[str] = Field(min_length=1, max_length=1 << 20)
    kept_widths: list[_Width] = Field(max_length=64)


class _Pretrained(_Described):
    head: _Head


class _Detector(_Described):
    head: HeadSpec


_Spec = TypeVar("_Spec", _Classifier, _Pretrained, _Detector)


def load_classifier(folder: Path, digests: Mapping[str, str] = _NONE) -> Classifier:
    """Read a classifier, in evaluation mode.

    Args:
        folder: folder of the files.
        digests: expected SHA-256 of files by name: a stage record's `outputs`.

    Raises:
        RunError: a file is missing, damaged, changed, or holds other weights than the model has.
    """
    spec = _spec(folder, _Classifier, digests)
    with _building(folder):
        model = Classifier.build(
            spec.architecture, spec.image_size, spec.classes, spec.kept_widths, normalization=spec.given
        )
    _load(folder, model, digests)
    return model.eval()


class Pretrained(nn.Module):
    """The result of pretraining: the encoder and its projection head.

    Args:
        architecture: the encoder's architecture.
        image_size: size of the images, in pixels.
        encoder: maps images to features h.
        head: maps h to projections z.
    """

    def __init__(
        self, architecture: Architecture, image_size: SizeLike, encoder: Encoder, head: ProjectionHead
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.image_size = ImageSize.of(image_size)
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Projections z (n, output) of normalized images (n, 3, h, w)."""
        return self.head(self.encoder(images))


def save_pretrained(folder: Path, model: Pretrained) -> list[str]:
    """Write a pretrained encoder and its head; return the names of the files."""
    spec = {
        "kind": "pretrained",
        **_described(model.architecture, model.encoder),
        "image_size": model.image_size.plain,
        "head": model.head.spec,
    }
    return _save(folder, spec, model)


def load_pretrained(folder: Path, digests: Mapping[str, str] = _NONE) -> Pretrained:
    """Read a pretrained encoder and its head, in evaluation mode; see `load_classifier`.

    Raises:
        RunError: a file is missing, damaged, changed, or holds other weights than the model has.
    """
    spec = _spec(folder, _Pretrained, digests)
    with _building(folder):
        encoder = build_encoder(spec.architecture, spec.image_size, normalization=spec.given)
        head = ProjectionHead(encoder.feature_dim, **spec.head.model_dump())
        model = Pretrained(spec.architecture, spec.image_size, encoder, head)
    _load(folder, model, digests)
    return model.eval()


def save_detector(folder: Path, model: Detector, architecture: Architecture, image_size: SizeLike) -> list[str]:
    """Write an anomaly detector; return the names of its files.

    Args:
        folder: of the files.
        model: the detector.
        architecture: of its encoder, and of its student.
        image_size: size of the images, in pixels.
    """
    spec = {
        "kind": "detector",
        **_described(architecture, model.encoder),
        "image_size": ImageSize.of(image_size).plain,
        "head": model.spec.model_dump(mode="json"),
    }
    return _save(folder, spec, model)


def load_detector(folder: Path, digests: Mapping[str, str] = _NONE) -> Detector:
    """Read an anomaly detector, in evaluation mode; see `load_classifier`.

    Raises:
        RunError: a file is missing, damaged, changed, or holds other weights than the model has.
    """
    spec = _spec(folder, _Detector, digests)
    with _building(folder):
        encoder, student = (
            build_encoder(spec.architecture, spec.image_size, normalization=spec.given) if wanted else None
            for wanted in (True, spec.head.method == "stfpm")
        )
        assert encoder is not None
        model = Detector(encoder, spec.head, spec.head.build(), student)
    _load(folder, model, digests)
    return model.eval()


def _save(folder: Path, spec: dict[str, Any], model: nn.Module) -> list[str]:
    # Contiguous layout: a file must not depend on the channels-last setting.
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_json(folder / FILES[0], spec)
    write_bytes(folder / FILES[1], safetensors.torch.save(weights))
    return list(FILES)


def _spec(folder: Path, kind: type[_Spec], digests: Mapping[str, str]) -> _Spec:
    path = folder / FILES[0]
    try:
        content = read_bytes(path)
        _compare(path, hashlib.sha256(content).hexdigest(), digests)
        spec = parse_json(content, path)
        wanted = kind.__name__.strip("_").lower()
        if spec.get("kind") != wanted:
            raise RunError(f"{path}: holds a {shortened(str(spec.get('kind')))}, not a {wanted}")
        return kind.model_validate(spec)
    except Unreadable as error:
        raise _unreadable(path, error, "damaged") from error
    except ValidationError as error:
        reason = f"{path}: damaged: {first_problem(error)}"
        raise RunError(reason, f"delete {folder} to train the stage again") from error


@contextmanager
def _building(folder: Path) -> Iterator[None]:
    """Build the described network in this block; error messages name the description's file."""
    path = folder / FILES[0]
    try:
        with understood(path, "a description of a network that can be built"):
            yield
    except Unreadable as error:
        raise RunError(error.message, f"delete {folder} to train the stage again") from error
    except EdgekitError as error:
        raise RunError(f"{path}: {error.message}", error.hint) from error


def _load(folder: Path, model: nn.Module, digests: Mapping[str, str]) -> None:
    path = folder / FILES[1]
    try:
        weights = read_safetensors(path)
        _compare(path, weights.sha256, digests)
        with understood(path, "of this model"):
            model.load_state_dict(weights.value, strict=True)
    except Unreadable as error:
        raise _unreadable(path, error, "damaged, or not the weights of this model") from error


def _compare(path: Path, digest: str, digests: Mapping[str, str]) -> None:
    if digests.get(path.name, digest) != digest:
        raise RunError(
            f"{path}: damaged: its digest differs from the recorded one",
            f"delete {path.parent} to train the stage again",
        )


def _unreadable(path: Path, error: Unreadable, what: str) -> RunError:
    if isinstance(error.__cause__, OSError):
        return RunError(f"{path}: cannot be read: {error.__cause__.strerror}", "train the stage again")
    return RunError(f"{path}: {what}: {error.detail}", f"delete {path.parent} to train the stage again")
