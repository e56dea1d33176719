"""anomalib's PatchCore or PaDiM on given pixels with given backbone weights; anomaly.py runs this file in anomalib's own environment.

python anomaly_anomalib.py METHOD PIXELS.npz WEIGHTS.safetensors LAYER,… OUTPUT.npz THREADS PATCHES

PATCHES is the size of PatchCore's bank. Scores and heat maps are written to OUTPUT, and a line of JSON says so. Then each line `N` on standard
input asks for the times of N calls with one image, of the PyTorch model and of its ONNX export in ONNX Runtime, and is answered by a line of JSON.
"""

from __future__ import annotations

import json
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from safetensors.torch import load_file

BACKBONE = "tf_efficientnet_lite0"
FEATURES = 100  # edgekit's default


def with_weights(extractor: Any, weights: dict[str, torch.Tensor]) -> None:
    """Give a backbone the weights; timm names the blocks of `features_only` with an underscore, and has no layers after the last one asked for."""
    own = extractor.state_dict()
    for name, wanted in own.items():
        tensor = weights[re.sub(r"^blocks_", "blocks.", name)]
        if tensor.shape != wanted.shape:
            raise ValueError(f"{name}: {tuple(tensor.shape)} is not {tuple(wanted.shape)}")
        wanted.copy_(tensor)


class Plain(torch.nn.Module):
    """A model that gives a pair of tensors, as the exporter needs it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.model(image)
        return found.pred_score, found.anomaly_map


def in_onnxruntime(model: torch.nn.Module, image: torch.Tensor, path: Path, threads: int) -> Callable[[Any], Any]:
    """Export a model for one image as anomalib does, without a free batch axis; return a call of it in ONNX Runtime."""
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Plain(model).eval(), (image,), str(path), opset_version=17, dynamo=False, input_names=["input"]
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"input": pixels.numpy()})


def calls(run: Callable[[Any], Any], images: torch.Tensor, count: int) -> dict[str, list[float]]:
    """Milliseconds of calls with one image: of the wall clock, and of the processor."""
    wall, cpu = [], []
    for i in range(count):
        image = images[i % len(images)][None]
        begin, used = time.perf_counter(), time.process_time()
        run(image)
        cpu.append((time.process_time() - used) * 1e3)
        wall.append((time.perf_counter() - begin) * 1e3)
    return {"wall": wall, "cpu": cpu}


def fitted(method: str, normal: torch.Tensor, weights: dict[str, torch.Tensor], layers: list[str], patches: int) -> Any:
    """A model of normal images."""
    model: Any
    if method == "patchcore":
        model = PatchcoreModel(layers, BACKBONE, pre_trained=False)
    else:
        model = PadimModel(BACKBONE, layers, pre_trained=False, n_features=FEATURES)
    with_weights(model.feature_extractor.feature_extractor, weights)
    model.train()
    model.feature_extractor.eval()
    for batch in normal.split(32):
        model(batch)
    if method == "patchcore":
        every = sum(len(part) for part in model.embedding_store)
        model.subsample_embedding((patches + 0.5) / every)
    else:
        model.fit()
    return model.eval()


@torch.no_grad()
def main() -> None:
    method, pixels, weights, layers, output, threads, patches = sys.argv[1:]
    torch.manual_seed(0)
    torch.set_num_threads(int(threads))
    with np.load(pixels) as content:
        normal, test = (
            (torch.from_numpy(content[name]).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
            for name in ("normal", "test")
        )
    kept = Path(output).with_suffix(".pt")
    if kept.exists():
        model = torch.load(kept, weights_only=False)
        scores = np.load(output)["scores"]
    else:
        model = fitted(method, normal, load_file(weights), layers.split(","), int(patches))
        found = [model(batch) for batch in test.split(4)]
        scores = torch.cat([f.pred_score.flatten() for f in found]).numpy()
        maps = torch.cat([f.anomaly_map.flatten(1, -3) for f in found]).numpy().reshape(len(test), *test.shape[2:])
        size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
        np.savez(output, scores=scores, maps=maps, bytes=size, patches=len(getattr(model, "memory_bank", ())))
        torch.save(model, kept)
    print(json.dumps({"written": output}), flush=True)
    runs: dict[str, Callable[[Any], Any]] = {}
    for line in sys.stdin:
        if not runs:
            exported = in_onnxruntime(model, test[:1], Path(output).with_suffix(".onnx"), int(threads))
            difference = abs(float(exported(test[:1])[0].ravel()[0]) - scores[0]) / scores[0]
            if difference > 0.01:
                raise ValueError(f"the export of {method} differs by {difference:.1%}")
            runs = {"PyTorch": model, "ONNX Runtime": exported}
        print(json.dumps({name: calls(run, test, int(line)) for name, run in runs.items()}), flush=True)


if __name__ == "__main__":
    main()
