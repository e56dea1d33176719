"""Models on disk: `model.json` says what to build, `model.safetensors` holds the weights. No pickle, and strict loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from pydantic import ValidationError
from torch import Tensor, nn

from edgekit.errors import RunError
from edgekit.files import write_bytes, write_json
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import Encoder, build_encoder
from edgekit.models.heads import ProjectionHead
from edgekit.recipe import Architecture

FILES = ["model.json", "model.safetensors"]


def save_classifier(folder: Path, model: Classifier) -> list[str]:
    """Write a classifier; returns the names of the files written."""
    spec = {
        "kind": "classifier",
        "architecture": model.architecture.model_dump(mode="json", exclude={"weights", "weights_key"}),
        "image_size": model.image_size,
        "classes": model.classes,
        "kept_widths": model.kept.widths(),
    }
    return _save(folder, spec, model)


def load_classifier(folder: Path) -> Classifier:
    """Read a classifier in evaluation mode.

    Raises:
        RunError: a file is missing, damaged, or holds other weights than the model has.
    """
    spec = _spec(folder, "classifier")
    model = Classifier.build(spec["architecture"], spec["image_size"], spec["classes"], spec["kept_widths"])
    _load(folder, model)
    return model.eval()


class Pretrained(nn.Module):
    """What pretraining leaves: the encoder and its projection head.

    Args:
        architecture: what the encoder was built from.
        image_size: side of the images, in pixels.
        encoder: maps images to features h.
        head: maps h to projections z.
    """

    def __init__(self, architecture: Architecture, image_size: int, encoder: Encoder, head: ProjectionHead) -> None:
        super().__init__()
        self.architecture = architecture
        self.image_size = image_size
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Projections z (n, output) of normalised images (n, 3, s, s)."""
        return self.head(self.encoder(images))


def save_pretrained(folder: Path, model: Pretrained) -> list[str]:
    """Write a pretrained encoder and its head; returns the names of the files written."""
    spec = {
        "kind": "pretrained",
        "architecture": model.architecture.model_dump(mode="json", exclude={"weights", "weights_key"}),
        "image_size": model.image_size,
        "head": model.head.spec,
    }
    return _save(folder, spec, model)


def load_pretrained(folder: Path) -> Pretrained:
    """Read a pretrained encoder and its head, in evaluation mode.

    Raises:
        RunError: a file is missing, damaged, or holds other weights than the model has.
    """
    spec = _spec(folder, "pretrained")
    encoder = build_encoder(spec["architecture"], spec["image_size"])
    model = Pretrained(
        spec["architecture"], spec["image_size"], encoder, ProjectionHead(encoder.feature_dim, **spec["head"])
    )
    _load(folder, model)
    return model.eval()


def _save(folder: Path, spec: dict[str, Any], model: nn.Module) -> list[str]:
    # Plain contiguous layout: a file must not depend on channels-last being switched on.
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_json(folder / FILES[0], spec)
    write_bytes(folder / FILES[1], safetensors.torch.save(weights))
    return list(FILES)


def _spec(folder: Path, kind: str) -> dict[str, Any]:
    path = folder / FILES[0]
    try:
        spec = json.loads(path.read_bytes())
        if spec["kind"] != kind:
            raise RunError(f"{path}: holds a {spec['kind']}, not a {kind}")
        return {**spec, "architecture": Architecture.model_validate(spec["architecture"])}
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}", "train the stage again") from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise RunError(f"{path}: damaged", f"delete {folder} to train the stage again") from error


def _load(folder: Path, model: nn.Module) -> None:
    path = folder / FILES[1]
    try:
        weights = safetensors.torch.load(path.read_bytes())
        model.load_state_dict(weights, strict=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}", "train the stage again") from error
    except (safetensors.SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"{path}: damaged, or not the weights of this model: {reason}", f"delete {folder} to train the stage again"
        ) from error
