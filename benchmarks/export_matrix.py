"""How long an export to four targets takes for a MobileNet-sized student, with one job and with several.

    python benchmarks/export_matrix.py [--network timm:mobilenetv3_small_100] [--size 128] [--images 500] [--jobs 1 2] [--output …]

Every one of their default precisions: ONNX Runtime, OpenVINO, TensorRT (its ONNX and build plan, or an engine where a
GPU is), TensorRT for RTX where it is installed. Random weights and random images: the seconds are what is asked here. Each export is a
process of its own, so that imports count. The goal is 90 s on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.result import now
from edgekit.runtimes import installed

GOAL_SECONDS = 90
TARGETS = ["onnx", "openvino", "trt", "trt-rtx"]

# One export, told on standard output: the seconds since its start at which each variant was finished.
ONE = """
import json, sys, time
began = time.monotonic()
from pathlib import Path
import numpy as np, torch
from edgekit.export import pipeline
from edgekit.export.staging import Staging
from edgekit.models.classifier import Classifier
from edgekit.models.pixels import PixelClassifier
from edgekit.preprocess import Preprocessing
from edgekit.recipe import Architecture
if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    size, count, finished = asked["size"], asked["images"], {}
    finish = Staging.finish
    def told(self, variant, key):
        finish(self, variant, key)
        finished[variant.id] = round(time.monotonic() - began, 2)
    Staging.finish = told
    torch.manual_seed(0)
    model = Classifier.build(Architecture(name=asked["network"]), size, [f"class {i}" for i in range(10)], [])
    torch.nn.init.normal_(model.head.weight, std=0.3)
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    bundle = pipeline.export_classifier(
        PixelClassifier(model.eval(), 0.5, 0.25), classes=model.classes, calibration=images[:300],
        preprocessing=Preprocessing(image_size=size, resize_to=size), output=Path(asked["output"]), targets=asked["targets"],
        evaluation=(images, np.arange(count) % 10), options=pipeline.ExportOptions(max_drop=100.0), jobs=asked["jobs"], name="student",
    )
    statuses = {v.id: v.status for v in bundle.manifest.variants}
    print(json.dumps({"finished_at": finished, "seconds": round(time.monotonic() - began, 2), "statuses": statuses}))
"""


def one(arguments: argparse.Namespace, targets: list[str], jobs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        asked = {"network": arguments.network, "size": arguments.size, "images": arguments.images, "targets": targets}
        script = Path(folder) / "one.py"
        script.write_text(ONE)
        began = time.monotonic()
        command = [sys.executable, str(script), json.dumps({**asked, "jobs": jobs, "output": f"{folder}/export"})]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return {
            "jobs": jobs,
            "wall_seconds": round(time.monotonic() - began, 2),
            **json.loads(done.stdout.splitlines()[-1]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="timm:mobilenetv3_small_100")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "export_matrix.json")
    arguments = parser.parse_args()
    targets = [target for target in TARGETS if target != "trt-rtx" or installed()["tensorrt-rtx"]]
    runs = [one(arguments, targets, jobs) for jobs in arguments.jobs]
    for run in runs:
        met = "within" if run["wall_seconds"] <= GOAL_SECONDS else "over"
        print(f"--jobs {run['jobs']}: {run['wall_seconds']:.1f} s, {met} {GOAL_SECONDS}")
        for id_, at in run["finished_at"].items():
            print(f"    {at:7.1f} s  {id_}: {run['statuses'][id_]}")
    content = {
        "created": now(), "machine": this_machine().model_dump(), "network": arguments.network, "image_size": arguments.size,
        "evaluation_images": arguments.images, "calibration_images": min(300, arguments.images), "targets": targets,
        "goal_seconds": GOAL_SECONDS, "runs": runs,
    }  # fmt: skip
    write_json(arguments.output, content)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
