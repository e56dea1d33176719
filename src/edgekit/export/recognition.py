"""Turn a classifier into a model of the task `recognition`: what its last linear layer sees becomes the only output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.errors import ExportError
from edgekit.export.importers.source import ModelSource
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.prepare import copied
from edgekit.onnx_graph.simplify import add_embedding, simplify
from edgekit.sizes import ImageSize, SizeLike
from edgekit.tasks import EMBEDDING, RECOGNITION
from edgekit.tasks.classification import LOGITS

_HINT = "recognition needs a network whose logits come from a linear layer over one vector per image"


def recognizer_of(source: ModelSource, scratch: Path) -> ModelSource:
    """Return a source whose model gives the embedding instead of logits, for a bundle without classes.

    Args:
        source: of a classifier, or of an encoder, which gives the embedding already.
        scratch: a folder for a changed graph.

    Raises:
        ExportError: the network's logits do not come from a linear layer over one vector per image.
    """
    output = source.output.with_name(f"{source.output.name}-{RECOGNITION}")
    if isinstance(source.model, Path):
        model: nn.Module | Path = _graph_without_head(source.model, scratch / "embedding.onnx")
    elif source.provenance.get("model") == "encoder":
        model = source.model
    else:
        model = without_head(source.model, source.preprocessing.image_size)
    evaluation = source.evaluation
    if evaluation is not None and (evaluation[1] is None or not _can_be_scored(evaluation[1])):
        evaluation = None
    return replace(source, model=model, classes=[], output=output, trained=None, evaluation=evaluation)


def without_head(model: nn.Module, image_size: SizeLike) -> nn.Module:
    """Return a copy of a classifier that gives what its last linear layer sees, float32 (n, d).

    Args:
        model: uint8 images (n, h, w, 3) -> logits (n, classes); it is not changed.
        image_size: h and w, in pixels.

    Raises:
        ExportError: its logits do not come from a linear layer over one vector per image.
    """
    headless = copied(model)
    seen: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda layer, inputs, output: seen.append((layer, inputs[0], output)))
        for module in headless.modules()
        if isinstance(module, nn.Linear)
    ]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, *ImageSize.of(image_size), 3), generator=generator, dtype=torch.uint8)
    try:
        with torch.inference_mode():
            logits = headless(images)
    finally:
        for hook in hooks:
            hook.remove()
    # Whatever follows the last layer (a cast to the type that it has) leaves its numbers.
    if not seen or seen[-1][1].ndim != 2 or not torch.equal(seen[-1][2], logits):
        raise ExportError("the network has no embedding to give", _HINT)
    head = seen[-1][0]
    for parent in headless.modules():
        for name, child in list(parent.named_children()):
            if child is head:
                setattr(parent, name, nn.Identity())
    with torch.inference_mode():
        if not torch.equal(headless(images), seen[-1][1]):
            raise ExportError("the network uses its last layer in more than one place", _HINT)
    return headless


def _graph_without_head(model: Path, path: Path) -> Path:
    """The same of a float ONNX, written to `path`."""
    graph = simplify(read_onnx(model))
    add_embedding(graph, LOGITS, EMBEDDING)
    kept = [output for output in graph.graph.output if output.name == EMBEDDING]
    del graph.graph.output[:]
    graph.graph.output.extend(kept)
    onnx.save(simplify(graph), path)
    return path


def _can_be_scored(labels: NDArray[np.int64]) -> bool:
    """Whether a class has two images, one of which can be recognized by the other."""
    return bool((np.unique(labels, return_counts=True)[1] > 1).any())
