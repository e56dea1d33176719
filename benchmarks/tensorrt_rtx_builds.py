"""Engines of TensorRT for RTX, built without a GPU: seconds, bytes, layers in INT8, and what their graph computes.

    python benchmarks/tensorrt_rtx_builds.py [--quick] [--output benchmarks/results/tensorrt_rtx_builds.json]

For each network (random weights, BatchNorm set to what random images give), precision and batch (free: 1 to 8; fixed: 1): the ONNX that goes into
the builder is run node by node in ONNX Runtime and held against the network in torch (largest difference of a logit over the
largest logit, and the share of images decided alike), then built twice, each time in a fresh process. Seconds are the builder's own, of
parsing and building. No engine is executed, and nothing here says how fast one is. Needs [export] and [trt-rtx].
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.export.half import simulated, tensorrt_onnx
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq import SIGNED, quantize_onnx
from edgekit.result import now
from edgekit.runtimes.tensorrt import BatchRange, BuildOptions, build
from small_models import random_images, untrained, write_onnx

NETWORKS = ("resnet18", "mobilenet_v3_small", "timm:tf_efficientnet_lite0")
PRECISIONS = ("fp32", "fp16", "int8")
BATCHES = {"1 to 8": BatchRange(max=8), "1": BatchRange(min=1, opt=1, max=1)}
CAPABILITIES = ("8.6", "8.9", "12.0")


def measure(name: str, size: int, count: int, scratch: Path) -> list[dict[str, Any]]:
    """Every precision and batch of one network."""
    model = untrained(name, size)
    graph = scratch / "float.onnx"
    write_onnx(model, graph, size)
    images = random_images(count, size)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    calibration = Calibration(graph, images, scratch)
    rows = []
    for precision in PRECISIONS:
        path = scratch / f"{precision}.onnx"
        if precision == "int8":
            quantize_onnx(calibration, path, SIGNED)
        tensorrt_onnx(path if precision == "int8" else graph, path, precision)
        logits = simulated(path, ["logits"])(images)["logits"]
        for batch, profile in BATCHES.items():
            options = BuildOptions(
                flavor="trt-rtx", precision=precision, batch=profile, compute_capabilities=CAPABILITIES
            )
            reports = [build(path, scratch / "made.engine", options) for _ in range(2)]
            rows.append(
                {
                    "network": name,
                    "image_size": size,
                    "precision": precision,
                    "batch": batch,
                    "seconds": [report.seconds for report in reports],
                    "onnx_bytes": path.stat().st_size,
                    "engine_bytes": reports[0].engine_bytes,
                    "same_bytes_twice": reports[0].engine_sha256 == reports[1].engine_sha256,
                    "layers": len(reports[0].layers),
                    "quantized": len(reports[0].quantized),
                    "computed_in_int8": len(reports[0].int8),
                    "warnings": reports[0].warnings,
                    "relative_error": float(np.abs(logits - expected).max() / np.abs(expected).max()),
                    "decided_alike": float((logits.argmax(1) == expected.argmax(1)).mean()),
                    "tensorrt_rtx": reports[0].tensorrt,
                }
            )
            print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    int8 = f"{row['computed_in_int8']}/{row['quantized']}" if row["quantized"] else "–"
    return (
        f"| {row['network']} | {row['precision']} | {row['batch']} | {min(row['seconds']):.1f} | {row['engine_bytes'] / 1e6:.1f} | {int8} "
        f"| {row['relative_error']:.1e} | {row['decided_alike']:.0%} | {'yes' if row['same_bytes_twice'] else 'no'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 pixels and 8 images")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/tensorrt_rtx_builds.json"))
    arguments = parser.parse_args()
    size, count = (64, 8) if arguments.quick else (224, 32)
    print("| network | precision | batch | s | MB | INT8 layers | error of the ONNX | decided alike | same bytes |")
    print("|---|---|---|---|---|---|---|---|---|")
    load = os.getloadavg()
    rows = []
    for name in NETWORKS:
        with tempfile.TemporaryDirectory() as scratch:
            rows += measure(name, size, count, Path(scratch))
    machine = this_machine().model_dump(mode="json")
    write_json(
        arguments.output,
        {"created": now(), "machine": machine, "load_before": load, "load_after": os.getloadavg(), "rows": rows},
    )


if __name__ == "__main__":
    main()
