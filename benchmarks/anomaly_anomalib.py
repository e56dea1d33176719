"""anomalib's PatchCore or PaDiM on given pixels with given backbone weights; anomaly.py runs this file in anomalib's own environment.

python anomaly_anomalib.py METHOD PIXELS.npz WEIGHTS.safetensors LAYER,… OUTPUT.npz THREADS
"""

from __future__ import annotations

import re
import sys
import time
from typing import Any

import numpy as np
import torch
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from safetensors.torch import load_file

BACKBONE = "tf_efficientnet_lite0"
CORESET, FEATURES = 0.01, 100  # edgekit's defaults
_CALLS = 45


def with_weights(extractor: Any, weights: dict[str, torch.Tensor]) -> None:
    """Give a backbone the weights; timm names the blocks of `features_only` with an underscore, and has no layers after the last one asked for."""
    own = extractor.state_dict()
    for name, wanted in own.items():
        tensor = weights[re.sub(r"^blocks_", "blocks.", name)]
        if tensor.shape != wanted.shape:
            raise ValueError(f"{name}: {tuple(tensor.shape)} is not {tuple(wanted.shape)}")
        wanted.copy_(tensor)


def main() -> None:
    method, pixels, weights, layers, output, threads = sys.argv[1:]
    torch.manual_seed(0)
    torch.set_num_threads(int(threads))
    with np.load(pixels) as content:
        normal, test = (
            (torch.from_numpy(content[name]).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
            for name in ("normal", "test")
        )
    model: Any
    if method == "patchcore":
        model = PatchcoreModel(layers.split(","), BACKBONE, pre_trained=False)
    else:
        model = PadimModel(BACKBONE, layers.split(","), pre_trained=False, n_features=FEATURES)
    with_weights(model.feature_extractor.feature_extractor, load_file(weights))
    model.train()
    model.feature_extractor.eval()
    with torch.no_grad():
        for batch in normal.split(32):
            model(batch)
        if method == "patchcore":
            model.subsample_embedding(CORESET)
        else:
            model.fit()
        model.eval()
        found = [model(batch) for batch in test.split(16)]
        seconds = []
        for i in range(_CALLS):
            begin = time.perf_counter()
            model(test[i % len(test)][None])
            seconds.append(time.perf_counter() - begin)
    np.savez(
        output,
        scores=torch.cat([f.pred_score.flatten() for f in found]).numpy(),
        maps=torch.cat([f.anomaly_map.flatten(1, -3) for f in found]).numpy().reshape(len(test), *test.shape[2:]),
        seconds=seconds,
        bytes=sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()]),
    )


if __name__ == "__main__":
    main()
