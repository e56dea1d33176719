"""Which student to choose, and what INT8 brings it: accuracy, size and latency for each runtime and precision.

    python benchmarks/students.py --data CIFAR10 --student ReLU=runs/a/distill --student HardSwish=runs/b/distill [--work DIR] [--quick]

CIFAR10 holds train/ and test/, each with one folder a class. A student is the folder of a stage (`model.json`, `model.safetensors`)
that was trained at 32 pixels. Beside the students, ResNet-18 and EfficientNet-Lite0 are timed at 224 pixels with RANDOM weights: their
latency means something, their accuracy nothing, and none is shown.

Every network is exported to ONNX Runtime and OpenVINO; then its variants are timed by edgekit's own bench: p50 at batch 1, with one and with
two threads, in turns, each turn in a fresh process. Ratios are against the same runtime's FP32. Interrupted, it goes on where it was:
bundles and timings lie below --work. About ten minutes on two idle cores with bundles made, twenty from the start.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from edgekit.bench.rounds import BenchPlan, bench
from edgekit.bundle import Bundle
from edgekit.data.splits import Splits, load_splits
from edgekit.export.pipeline import ExportOptions, export_classifier
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.models.classifier import Classifier
from edgekit.models.pixels import PixelClassifier
from edgekit.models.store import load_classifier
from edgekit.preprocess import Preprocessing
from edgekit.progress import progress
from edgekit.recipe import Architecture, parse
from edgekit.result import Latency, Result, now

RANDOM = {
    "ResNet-18, random weights": "torchvision:resnet18",
    "EfficientNet-Lite0, random weights": "timm:efficientnet_lite0",
}
PRECISIONS = ["fp32", "fp16", "int8"]
THREADS = (1, 2)
MEAN, STD = 0.5, 0.25


def splits_of(data: Path) -> Splits:
    return load_splits(parse({"data": {"labeled": str(data / "train"), "test": str(data / "test"), "probe": 0.1}}).data)


def export_student(stage: Path, splits: Splits, output: Path, images: int) -> Bundle:
    """Accuracy on the test images (all 10,000, or the first so many), calibrated on 300 of the pool."""
    assert splits.test.labels is not None
    rows = np.linspace(0, len(splits.pool) - 1, 300).round().astype(int)
    return export_classifier(
        PixelClassifier(load_classifier(stage), MEAN, STD),
        classes=splits.classes,
        preprocessing=Preprocessing(image_size=32, resize_to=32),
        calibration=splits.pool.subset(rows).center_crop(32).images,
        evaluation=(splits.test.images[:images], splits.test.labels[:images]),
        output=output,
        precisions=PRECISIONS,
        options=ExportOptions(max_drop=0.5),
        name=output.name,
    )


def export_random(name: str, splits: Splits, output: Path) -> Bundle:
    """At 224 pixels, ranges from 40 enlarged photographs. What INT8 loses is not asked: there is nothing to lose."""
    torch.manual_seed(0)
    classes = [f"class {i}" for i in range(1000)]
    model = Classifier.build(Architecture(name=name), 224, classes, [])
    torch.nn.init.normal_(model.head.weight, std=0.05)
    photographs = [Image.fromarray(image).resize((224, 224)) for image in splits.test.images[:40]]
    return export_classifier(
        PixelClassifier(model.eval(), MEAN, STD),
        classes=classes,
        preprocessing=Preprocessing(image_size=224, resize_to=256),
        calibration=np.stack([np.asarray(photograph) for photograph in photographs]),
        evaluation=None,
        output=output,
        precisions=PRECISIONS,
        options=ExportOptions(max_drop=100.0),
        name=output.name,
    )


def time_variants(bundle: Bundle, threads: int, folder: Path, plan: BenchPlan) -> dict[str, Latency]:
    """p50 of every variant, in turns; what was timed already is read."""
    found = {}
    for path in folder.glob("*.json"):
        latency = Result.read(path).measurement
        if isinstance(latency, Latency) and latency.bundle_digest == bundle.digest:
            found[latency.variant] = latency
    if len(found) < len(bundle.manifest.variants):
        shutil.rmtree(folder, ignore_errors=True)  # all of them again: only what took turns may be compared
        outcome = bench(bundle, bundle.manifest.variants, folder, threads=threads, plan=plan)
        if outcome.interrupted:
            raise KeyboardInterrupt
        for _, error in outcome.failed:
            raise error
        found = {latency.variant: latency for _, latency, _ in outcome.results}
    return found


def rows_of(name: str, bundle: Bundle, times: dict[int, dict[str, Latency]], trained: bool) -> list[dict[str, Any]]:
    rows = []
    for v in bundle.manifest.variants:
        base = f"{v.id.rpartition('-')[0]}-fp32"
        p50 = {t: times[t][v.id].percentiles_ms["p50"] for t in times}
        of_float = {t: times[t][base].percentiles_ms["p50"] for t in times}
        rows.append({
            "student": name,
            "variant": v.id,
            "status": v.status,
            "bytes": v.bytes,
            "accuracy": v.accuracy.value if trained and v.accuracy else None,
            "drop": v.drop if trained else None,
            "p50_ms": p50,
            "times_as_fast_as_fp32": {t: of_float[t] / p50[t] if p50[t] and of_float[t] else None for t in p50},
            "quantization": {k: (v.quantization or {}).get(k) for k in ("strategy", "configuration", "tool")} if v.quantization else None,
        })  # fmt: skip
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    print(f"\n{'student':<36} {'variant':<15} {'top-1':>7} {'drop':>6} {'kB':>7}  p50 ms, 1 thread  p50 ms, 2 threads")
    for row in rows:
        accuracy = f"{row['accuracy']:.2%}" if row["accuracy"] is not None else "–"
        drop = f"{row['drop'] * 100:+.2f}" if row["drop"] is not None else "–"
        cells = []
        for threads, p50 in row["p50_ms"].items():
            ratio = row["times_as_fast_as_fp32"][threads]
            cells.append(f"{p50:8.3f} ({ratio:.2f}×)" if p50 and ratio else "–")
        print(
            f"{row['student']:<36} {row['variant']:<15} {accuracy:>7} {drop:>6} {row['bytes'] / 1e3:>7.0f}  {'   '.join(cells)}"
            f"{'' if row['status'] == 'verified' else '  ' + row['status']}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--student", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--work", type=Path, default=Path("runs/students"))
    parser.add_argument("--quick", action="store_true", help="a rehearsal: 500 test images, half a second a variant")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "students.json")
    arguments = parser.parse_args()
    splits = splits_of(arguments.data)
    plan = BenchPlan(0.5, 20, rounds=1) if arguments.quick else BenchPlan(6.0, 200, rounds=3)
    stages = dict(text.split("=", 1) for text in arguments.student)
    bundles: dict[str, Bundle] = {}
    for name, stage in stages.items():
        images = 500 if arguments.quick else len(splits.test)
        bundles[name] = export_student(Path(stage), splits, arguments.work / name, images)
    for name, network in RANDOM.items():
        bundles[name] = export_random(network, splits, arguments.work / network.rpartition(":")[2])
    rows: list[dict[str, Any]] = []
    with progress("timing", len(bundles) * len(THREADS), unit="bundles × threads") as advance:
        for name, bundle in bundles.items():
            times = {}
            for threads in THREADS:
                times[threads] = time_variants(bundle, threads, bundle.path / f"bench-{threads}", plan)
                advance(1, name)
            rows += rows_of(name, bundle, times, trained=name in stages)
    protocol = (
        "batch 1, p50, single-stream; variants of a bundle in turns, fresh processes; random weights: latency alone"
    )
    write_json(
        arguments.output,
        {
            "created": now(),
            "quick": arguments.quick,
            "machine": this_machine().model_dump(),
            "protocol": protocol,
            "rows": rows,
        },
    )
    show(rows)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
