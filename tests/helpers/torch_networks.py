"""Foreign torch networks: images for them, and whether their float ONNX agrees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.models.pixels import PixelClassifier
from edgekit.onnx_graph.build import export_onnx
from edgekit.onnx_graph.prepare import fused
from edgekit.runtimes import open_session


def pixels(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def agrees(network: nn.Module, size: int, path: Path) -> None:
    """The ONNX, fused and exported as in the pipeline, gives the network's outputs for every batch size."""
    model, images = PixelClassifier(network, 0.5, 0.25).eval(), pixels(3, size)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    export_onnx(fused(model, size), path, image_size=size, classes=[str(i) for i in range(expected.shape[1])])
    session = open_session("onnxruntime", path, threads=1)
    found = np.concatenate([session.run(images[:1]), session.run(images[1:])])
    session.close()
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def answer(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)


IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(3))
