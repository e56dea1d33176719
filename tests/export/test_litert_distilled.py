"""Distillation in the accuracy search for LiteRT: its weights are adapted to INT8, written, and run."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.export import xnnpack
from edgekit.export.inputs import ExportOptions, Sources
from edgekit.export.litert.int8 import LiteRtInt8
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs
from edgekit.onnx_graph.build import export_onnx
from edgekit.quantize import search
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.search import search_accuracy
from edgekit.runtimes import open_session
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers import exported

SPREAD = 3.0  # channels differ by up to e^SPREAD


def imbalanced(model: nn.Module) -> nn.Module:
    """The same function with the channels between the convolutions of each block scaled up or down."""
    found = copy.deepcopy(model)
    blocks = [m for m in found.modules() if hasattr(m, "bn1") and hasattr(m, "conv2")]
    assert blocks
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in blocks:
            factor = torch.exp(SPREAD * (torch.rand(len(block.bn1.weight), generator=generator) - 0.5))
            block.bn1.weight.mul_(factor)
            block.bn1.bias.mul_(factor)
            block.conv2.weight.div_(factor[None, :, None, None])
    return found


@pytest.mark.slow
def test_distillation_brings_litert_nearer_to_the_trained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About 12 s on one core. No other strategy is there to help, and no file passes, so that the best one is delivered."""
    monkeypatch.setattr(xnnpack, "METHODS", ("minmax",))
    monkeypatch.setattr(search, "_equalize", lambda state: None)
    monkeypatch.setattr(search, "_keep_in_float", lambda state: None)
    model = imbalanced(exported.pixels())
    size, pool = exported.RECIPE.data.image_size, exported.splits().pool.center_crop(16).images
    export_onnx(model, tmp_path / "model.onnx", image_size=size, classes=exported.splits().classes)
    test = exported.splits().test
    sources = Sources(
        float_onnx=tmp_path / "model.onnx",
        calibration=Calibration(tmp_path / "model.onnx", pool[:100], tmp_path),
        reference=ReferenceOutputs.of(CLASSIFICATION, model, test.images[:200], None),
        options=ExportOptions(recover=True),
        folder=tmp_path / "out",
        scratch=tmp_path,
        model=model,
        unlabeled=pool[:256],
    )
    sources.folder.mkdir()
    backend = LiteRtInt8(sources.quantizer, sources.reference, AccuracyBounds(min_agreement=1.01))
    variant = search_accuracy(backend, sources.folder, recover=True)
    assert variant.quantization is not None
    tried = variant.quantization.tried
    assert "failed" not in {entry.status for entry in tried}, tried
    noise = {entry.configuration: entry.unlabeled.sqnr_db for entry in tried if entry.strategy == "distillation"}
    (plain,) = (entry.unlabeled.sqnr_db for entry in tried if entry.strategy == "calibration")
    assert noise
    assert max(noise.values()) > plain + 0.5  # a tenth less noise; 1.5 dB where it was measured

    unseen = pool[700:1000]
    with torch.no_grad():
        trained = model(torch.from_numpy(unseen.copy())).numpy()
    session = open_session("litert", sources.folder / variant.files[0].path, threads=1)
    error = float(np.square(session.run(unseen) - trained).sum() / np.square(trained).sum())
    assert -10 * np.log10(error) > plain  # what was delivered is the distilled file, also for unseen images
