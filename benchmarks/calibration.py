"""Which images calibrate INT8, and how their ranges are chosen: clusters against blind draws, at several numbers of images.

    python benchmarks/calibration.py RUN [--images 16 64 300] [--seeds 5] [--test-images N] > result.json

Every draw of every seed is quantized by each method in the way that this CPU takes first (see docs/export.md), run in ONNX Runtime
over the test set, and compared with the float student: points of accuracy lost, agreement, SQNR of the logits. A table of means and
standard deviations over the seeds goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data.splits import load_splits
from edgekit.machine import this_machine
from edgekit.models.pixels import PixelClassifier
from edgekit.models.store import load_classifier
from edgekit.onnx_graph.build import export_onnx
from edgekit.progress import progress
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq import FULL, REDUCED, quantize_onnx, saturates
from edgekit.quantize.ranges import METHODS
from edgekit.quantize.selection import CalibrationPool, draw
from edgekit.result import now
from edgekit.run import Run
from edgekit.runtimes import open_session

DRAWS = ("random", "clusters")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("run")
    arguments.add_argument("--images", type=int, nargs="+", default=[16, 64, 300])
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--test-images", type=int, default=0, help="the first so many of the test set; 0: all")
    arguments.add_argument("--threads", type=int, default=0, help="of ONNX Runtime; 0: its default")
    told = arguments.parse_args()
    run = Run.open(told.run)
    record, data = run.require("distill"), run.recipe.data
    splits = load_splits(data)
    classifier = load_classifier(run.stage_path("distill"))
    test, labels = np.asarray(splits.test.images), splits.test.labels
    assert labels is not None
    if told.test_images:
        test, labels = test[: told.test_images], labels[: told.test_images]
    scheme = REDUCED if saturates() else FULL
    measured: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.onnx"
        export_onnx(
            PixelClassifier(classifier, data.mean, data.std), model, image_size=data.image_size, classes=splits.classes
        )
        float_logits = answers(model, test, told.threads)
        total = len(DRAWS) * len(told.images) * told.seeds * len(METHODS)
        with progress("quantize", total, unit="files") as advance:
            for count in told.images:
                for how in DRAWS:
                    for seed in range(told.seeds):
                        candidates = CalibrationPool(
                            total=len(splits.pool),
                            read=lambda rows: np.asarray(splits.pool.subset(rows).center_crop(data.image_size).images),
                            digest=splits.pool.digest,
                            count=count,
                            classes=len(splits.classes),
                            seed=seed,
                        )
                        began = time.perf_counter()
                        drawn = draw(model, candidates, how)
                        seconds = time.perf_counter() - began
                        calibration = Calibration(model, drawn.images, folder, drawn.record)
                        for method in METHODS:
                            quantize_onnx(calibration, folder / "int8.onnx", scheme, method=method)
                            logits = answers(folder / "int8.onnx", test, told.threads)
                            found = compare(float_logits, logits, labels)
                            measured.append(
                                {
                                    "drawn": how,
                                    "images": count,
                                    "seed": seed,
                                    "method": method,
                                    **found,
                                    "draw_s": seconds,
                                }
                            )
                            advance(1)
    content = {
        "what": "INT8 by calibration images and method, in ONNX Runtime, against the float student",
        "created": now(),
        "command": sys.argv,
        "architecture": classifier.architecture.model_dump(mode="json"),
        "image_size": data.image_size.plain,
        "weights": record.outputs["model.safetensors"],
        "pool": len(splits.pool),
        "test_images": len(test),
        "float_top1": float((float_logits.argmax(1) == labels).mean()),
        "scheme": scheme.name,
        "machine": this_machine().model_dump(mode="json"),
        "measured": measured,
    }
    print(json.dumps(content, indent=2))
    print(table(measured), file=sys.stderr)


def answers(model: Path, images: NDArray[np.uint8], threads: int) -> NDArray[np.float32]:
    session = open_session("onnxruntime", model, threads=threads)
    try:
        return np.concatenate([session.run(part) for part in np.array_split(images, max(1, len(images) // 256))])
    finally:
        session.close()


def compare(trained: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    noise = float(((logits.astype(np.float64) - trained) ** 2).sum())
    right = [float((some.argmax(1) == labels).mean()) for some in (trained, logits)]
    return {
        "drop_points": 100 * (right[0] - right[1]),
        "agreement": float((logits.argmax(1) == trained.argmax(1)).mean()),
        "sqnr_db": float(10 * np.log10((trained.astype(np.float64) ** 2).sum() / max(noise, 1e-30))),
    }


def table(measured: list[dict[str, Any]]) -> str:
    """Markdown: mean ± standard deviation over the seeds, and the worst drop of them."""
    lines = [
        "| images | drawn | method | drop, points | worst | agreement, % | SQNR, dB |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = dict.fromkeys((m["images"], m["drawn"], m["method"]) for m in measured)
    for key in groups:
        some = [m for m in measured if (m["images"], m["drawn"], m["method"]) == key]
        drops, agreements, sqnrs = (np.array([m[k] for m in some]) for k in ("drop_points", "agreement", "sqnr_db"))
        lines.append(
            f"| {key[0]} | {key[1]} | {key[2]} | {drops.mean():.2f} ± {drops.std():.2f} | {drops.max():.2f} "
            f"| {100 * agreements.mean():.2f} ± {100 * agreements.std():.2f} | {sqnrs.mean():.1f} ± {sqnrs.std():.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
