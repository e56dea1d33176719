"""A small set for anomaly detection in MVTec AD's layout, and a run whose encoder has weights from a file: seconds on one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from edgekit.models.encoders import build_encoder
from edgekit.recipe import Architecture, Recipe, parse

SIDE = 32
ENCODER: dict[str, Any] = {"name": "resnet10", "width": 0.125, "stem": "strided"}


def part(random: np.random.Generator, defect: bool) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A picture of soft stripes with noise, uint8 (32, 32, 3); with a defect, a square of it is dark. And its mask."""
    rows = np.arange(SIDE)[:, None, None]
    light = 130 + 60 * np.sin(rows / 2.5 + random.uniform(0, 0.6)) * np.ones((1, SIDE, 3))
    mask = np.zeros((SIDE, SIDE), bool)
    if defect:
        top, left = random.integers(4, SIDE - 12, 2)
        mask[top : top + 8, left : left + 8] = True
        light[mask] = 20
    return np.clip(light + random.normal(scale=6, size=light.shape), 0, 255).astype(np.uint8), mask


def write_set(folder: Path, train: int = 40, each: int = 12, contaminated: int = 0) -> Path:
    """Write `train/good`, `test/good`, `test/dark` and `ground_truth/dark`; the first `contaminated` training images have the defect."""
    random = np.random.default_rng(0)
    for kind, count, defect in (("train/good", train, False), ("test/good", each, False), ("test/dark", each, True)):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            image, mask = part(random, defect or (kind == "train/good" and i < contaminated))
            Image.fromarray(image).save(folder / kind / f"{i:03}.png")
            if defect:
                (folder / "ground_truth/dark").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"ground_truth/dark/{i:03}_mask.png")
    return folder


def write_weights(path: Path) -> Path:
    """Weights of the encoder: random filters, and normalizations with the statistics of such images, as after training."""
    torch.manual_seed(0)
    encoder = build_encoder(Architecture.model_validate(ENCODER), SIDE)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            module.momentum = None  # the mean over the batches below
    random = np.random.default_rng(1)
    images = np.stack([part(random, False)[0] for _ in range(32)])
    with torch.no_grad():
        encoder.train()((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    weights = {name: tensor.contiguous() for name, tensor in encoder.network.state_dict().items()}
    path.write_bytes(safetensors.torch.save(weights))
    return path


def recipe(images: Path, weights: Path, **anomaly: Any) -> Recipe:
    """The recipe of a run that pretrains nothing."""
    return parse(
        {
            "name": "parts",
            "task": "anomaly",
            "data": {"normal": str(images), "image_size": SIDE, "probe": 0.5, "pixel_range": "dtype"},
            "anomaly": {"encoder": {**ENCODER, "weights": str(weights)}, "coreset": 0.1, "features": 12, **anomaly},
            "hardware": {"accelerator": "cpu"},
        }
    )
