"""Every quantization scheme for a run's student, in both runtimes: accuracy, agreement with float, latency compared with float.

    python benchmarks/int8_ways.py RUN [--calibration-images 300] [--threads 1] [--rounds 300] > result.json

Latencies are of one image, float and INT8 of a runtime in turns in one process; the ratio is the median over the pairs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edgekit.bundle import BundleFile, Variant
from edgekit.data.splits import load_splits
from edgekit.export import openvino
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs, verify
from edgekit.machine import this_machine
from edgekit.models.pixels import PixelClassifier
from edgekit.models.store import load_classifier
from edgekit.onnx_graph.build import export_onnx
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq import FULL, REDUCED, UNSIGNED, quantize_onnx, saturates
from edgekit.result import now
from edgekit.run import Run
from edgekit.runtimes import open_session

NNCF = "nncf"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("run")
    arguments.add_argument("--calibration-images", type=int, default=300)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=300)
    told = arguments.parse_args()
    run = Run.open(told.run)
    record, data = run.require("distill"), run.recipe.data
    splits = load_splits(data)
    classifier = load_classifier(run.stage_path("distill"))
    model = PixelClassifier(classifier, data.mean, data.std)
    rows = np.linspace(0, len(splits.pool) - 1, min(told.calibration_images, len(splits.pool))).round().astype(int)
    images = np.asarray(splits.pool.subset(rows).center_crop(data.image_size).images)
    assert splits.test.labels is not None
    reference = ReferenceOutputs.of(model, np.asarray(splits.test.images), splits.test.labels)
    measured = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_onnx(model, folder / "model.onnx", image_size=data.image_size, classes=splits.classes)
        calibration = Calibration(folder / "model.onnx", images, folder)
        for scheme in (FULL, REDUCED, UNSIGNED, NNCF):
            label = scheme if isinstance(scheme, str) else scheme.name
            file = "nncf.xml" if isinstance(scheme, str) else f"{label.replace(' ', '-')}.onnx"
            if isinstance(scheme, str):
                openvino.quantize_ir(calibration, folder / file)
            else:
                quantize_onnx(calibration, folder / file, scheme)
            for runtime in ("onnxruntime", "openvino")[isinstance(scheme, str) :]:
                variant = verify(_variant(runtime, folder, file), folder, reference, AccuracyBounds(max_drop=100))
                ratio, latency = _compare(runtime, folder / "model.onnx", folder / file, images[:1], told)
                assert variant.accuracy is not None
                measured.append(
                    {
                        "scheme": label,
                        "runtime": runtime,
                        "top1": variant.accuracy.value,
                        "drop": variant.drop,
                        "agreement": variant.accuracy.agreement,
                        "times_faster_than_float": ratio,
                        "p50_ms": latency,
                    }
                )
                print(measured[-1], file=sys.stderr)
    content = {
        "what": "INT8 by scheme and runtime, compared with float in the same runtime",
        "created": now(),
        "command": sys.argv,
        "architecture": classifier.architecture.model_dump(mode="json"),
        "image_size": data.image_size.plain,
        "weights": record.outputs["model.safetensors"],
        "trained": reference.accuracy.model_dump(mode="json"),
        "calibration": calibration.describe().model_dump(mode="json"),
        "threads": told.threads,
        "rounds": told.rounds,
        "saturates": saturates(),
        "machine": this_machine().model_dump(mode="json"),
        "measured": measured,
    }
    print(json.dumps(content, indent=2))


def _variant(runtime: str, folder: Path, file: str) -> Variant:
    return Variant(
        id="int8",
        runtime=runtime,
        precision="int8",
        files=[BundleFile.of(folder, file)],
        executed=False,
        status="unexecuted",
    )


def _compare(runtime: str, model: Path, int8: Path, image: np.ndarray, told: argparse.Namespace) -> tuple[float, float]:
    sessions = [open_session(runtime, path, threads=told.threads) for path in (model, int8)]
    times = np.zeros((told.rounds + 10, 2))
    for i in range(len(times)):
        for j, session in enumerate(sessions):
            began = time.perf_counter_ns()
            session.run(image)
            times[i, j] = time.perf_counter_ns() - began
    for session in sessions:
        session.close()
    times = times[10:]  # the first ones warm up
    return float(np.median(times[:, 0] / times[:, 1])), float(np.median(times[:, 1]) / 1e6)


if __name__ == "__main__":
    main()
