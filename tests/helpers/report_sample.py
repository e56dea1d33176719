"""A small run folder made of real contract objects, with plausible content: what the report's tests draw."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgekit import recipe as recipes
from edgekit import tasks
from edgekit.answers import Answers
from edgekit.bench import statistics
from edgekit.bundle import Accuracy, Bundle, BundleFile, Manifest, Parity, Tensor, Variant, write_manifest
from edgekit.files import sha256, write_json
from edgekit.intervals import paired
from edgekit.machine import this_machine
from edgekit.preprocess import Preprocessing
from edgekit.quantization import CalibrationRecord, Quantization
from edgekit.result import (
    Advice,
    AnswersFile,
    Difference,
    Evaluation,
    Latency,
    LayerTime,
    Profile,
    Result,
    Score,
    Timeline,
    WorstImage,
)  # fmt: skip
from edgekit.run import Run
from edgekit.tasks.unknown import Known

CREATED = "2026-03-01T12:30:00+00:00"
CLASSES = [str(digit) for digit in range(10)]
# variant: (runtime, precision, bytes, top-1 of 360, |Δ logit|, status, median latency in ms)
VARIANTS: dict[str, tuple[Any, Any, int, float, float, Any, float]] = {
    "onnx-fp32": ("onnxruntime", "fp32", 712_000, 0.9639, 3.1e-6, "verified", 0.412),
    "onnx-int8": ("onnxruntime", "int8", 191_000, 0.9583, 0.214, "verified", 0.305),
    "openvino-fp16": ("openvino", "fp16", 361_000, 0.9639, 2.4e-3, "verified", 0.298),
    "openvino-int8": ("openvino", "int8", 187_000, 0.9611, 0.181, "verified", 0.171),
    "onnx-int8-tensor": ("onnxruntime", "int8", 188_000, 0.8722, 2.93, "rejected", 0.301),
}


def make_run(folder: Path, classes: list[str] | None = None, samples: int = 900) -> Path:
    """Write a whole run into `folder`; `samples` latencies are drawn for each variant."""
    classes = classes or CLASSES
    run = Run(folder)
    folder.mkdir(parents=True)
    recipe = recipes.parse({"name": "digits", "pretrain": {"encoder": {"width": 0.5}}})
    run.recipe_path.write_text(recipes.dump(recipe), encoding="utf-8")
    make_data(run, classes)
    for stage, epochs, columns in (
        ("pretrain", 60, ("loss", "lr", "collapse_std", "effective_rank")),
        ("finetune", 40, ("loss", "lr", "train_top1")),
        ("distill", 60, ("loss", "lr", "agreement")),
        ("supervised", 50, ("loss", "lr", "train_top1")),
    ):
        make_stage(run, stage, epochs, columns)
    make_evaluation(run, classes)
    make_bundle(folder / "export", classes)
    make_latencies(run, samples)
    return folder


def make_data(run: Run, classes: list[str]) -> None:
    folder = run.stage_path("data")
    folder.mkdir()
    sizes = {"pool": 1291, "labels": 130, "probe": 146, "test": 360}
    splits: dict[str, Any] = {"classes": classes}
    for name, images in sizes.items():
        splits[name] = {"images": images, "side": 32, "digest": "0" * 64}
        if name != "pool":
            splits[name]["per_class"] = dict.fromkeys(classes, images // len(classes))
    notes = ["took 12 images out of the pool: also in the test set"]
    write_json(folder / "splits.json", splits | {"skipped": 2, "notes": notes})
    skipped = [("scans/0172.tif", "image file is truncated"), ("notes.txt.png", "not an image that Pillow can read")]
    write_rows(folder / "skipped.csv", [("file", "reason"), *skipped])
    run.write_record("data", {"seed": 0}, ["splits.json", "skipped.csv"], {}, 1.4, CREATED, this_machine().packages)


def make_stage(run: Run, stage: str, epochs: int, columns: tuple[str, ...]) -> None:
    folder = run.stage_path(stage)
    folder.mkdir()
    shapes = {
        "loss": lambda t: 2.3 + 3.6 * math.exp(-4 * t) + 0.05 * math.sin(40 * t),
        "lr": lambda t: 0.3 * min(10 * t, 0.5 + 0.5 * math.cos(math.pi * t)),
        "collapse_std": lambda t: 0.71 + 0.25 * (1 - math.exp(-5 * t)),
        "effective_rank": lambda t: 18 + 65 * (1 - math.exp(-3 * t)),
        "train_top1": lambda t: 1 - 0.9 * math.exp(-6 * t),
        "agreement": lambda t: 0.98 - 0.7 * math.exp(-5 * t),
    }
    rows = [[i + 1, *(f"{shapes[c](i / epochs):.5f}" for c in columns)] for i in range(epochs)]
    write_rows(folder / "history.csv", [("epoch", *columns), *rows])
    outputs = ["history.csv"]
    if stage == "pretrain":
        y, x, band = np.mgrid[0 : 4 * 34, 0 : 9 * 34, 0:3]
        pixels = (127 + 120 * np.sin(x / (9 + y // 34) + band) * np.cos(y / (7 + x // 34))).astype(np.uint8)
        pixels[(y % 34 < 2) | (x % 34 < 2)] = 255
        Image.fromarray(pixels).save(folder / "views.png")
        outputs.append("views.png")
    metrics = {"knn": 0.9472, "knn_random_weights": 0.8111} if stage == "pretrain" else {}
    run.write_record(stage, {"epochs": epochs}, outputs, metrics, 0.9 * epochs, CREATED, this_machine().packages)


def make_evaluation(run: Run, classes: list[str]) -> None:
    probe = "last epoch, frozen features, probe set"
    scores = [
        Score(model="encoder", metric="knn", value=0.9472, samples=360, protocol=f"k = 200, cosine, T = 0.1; {probe}"),
        Score(model="encoder", metric="linear", value=0.9528, samples=360, protocol=f"L2 logistic regression; {probe}"),
    ]
    for model, value in (("teacher", 0.9667), ("student", 0.9639), ("supervised", 0.8472)):
        per_class = {name: min(1.0, max(0.0, value + 0.02 * math.sin(3 * i))) for i, name in enumerate(classes)}
        protocol = "test set, center crop, last epoch"
        scores += [
            Score(model=model, metric="top1", value=value, samples=360, protocol=protocol, per_class=per_class),
            Score(model=model, metric="top5", value=min(1.0, value + 0.03), samples=360, protocol=protocol),
        ]
    answers = make_answers(len(classes))
    path = run.path / "evaluate" / "answers.npz"
    answers.write(path)
    each = answers.right("student").astype(np.int8) - answers.right("supervised").astype(np.int8)
    lead = Difference(
        first="student", second="supervised", value=0.1167, interval=paired(each[None]), samples=360, p_value=1e-6,
        protocol="same test images, paired bootstrap over images",
    )  # fmt: skip
    worst = [
        WorstImage(file=f"{classes[answers.truth[i]]}/{i}.png", truth=classes[answers.truth[i]],
              predicted=classes[answers.predicted["student"][i]], probability=0.9)
        for i in answers.worst
    ]  # fmt: skip
    advice = [
        Advice(
            rule="few_steps",
            finding="finetune had 40 steps (accuracy on the labels 80.0%)",
            change="set finetune.epochs: 300",
        ),
        Advice(
            rule="mixed_classes", finding=f"the student mixes up {classes[0]} and {classes[1]}", change="label more"
        ),
    ]
    evaluation = Evaluation(
        run=str(run.path), data="digits, 360 images held out", scores=scores, classes=classes, differences=[lead], advice=advice,
        answers=AnswersFile(file="answers.npz", sha256=sha256(path)), worst=worst,
    )  # fmt: skip
    write_result(run.path / "evaluate" / "evaluation.json", evaluation)


def make_answers(classes: int, images: int = 360) -> Answers:
    """Answers of a student that takes every 30th image for the next class, and of a network from scratch that does every 7th."""
    truth = (np.arange(images) % classes).astype(np.int32)
    predicted = {}
    for model, every in (("teacher", 40), ("student", 30), ("supervised", 7)):
        wrong = np.arange(images) % every == 0
        predicted[model] = np.where(wrong, (truth + 1) % classes, truth).astype(np.int32)
    probability = {model: np.full(images, 0.9, np.float32) for model in predicted}
    worst = np.flatnonzero(predicted["student"] != truth).astype(np.int32)
    pixels = np.random.default_rng(0).integers(0, 256, (len(worst), 32, 32, 3), dtype=np.uint8)
    maps = np.random.default_rng(1).normal(0, 1, (3, 32, 32)).astype(np.float32)
    return Answers(truth, predicted, probability, worst, pixels, maps)


def make_bundle(folder: Path, classes: list[str]) -> Bundle:
    folder.mkdir()
    generator = np.random.default_rng(0)
    np.savez(folder / "golden.npz", images=np.zeros((4, 32, 32, 3), np.uint8), logits=np.zeros((4, 10), np.float32))
    trained = 0.9639
    variants = []
    for name, (runtime, precision, size, top1, difference, status, _) in VARIANTS.items():
        (folder / f"{name}.bin").write_bytes(generator.bytes(size))
        variants.append(
            Variant(
                id=name,
                runtime=runtime,
                precision=precision,
                files=[BundleFile.of(folder, f"{name}.bin")],
                executed=True,
                status=status,
                parity=Parity(
                    samples=64,
                    agreement=1.0 if precision != "int8" else 0.984,
                    max_abs_diff=difference,
                    sqnr_db=20 * math.log10(9 / difference),
                ),
                accuracy=Accuracy(top1=top1, samples=360, agreement=1.0 if precision != "int8" else 0.981),
                drop=trained - top1,
                quantization=Quantization(calibration=CalibrationRecord(images=300)) if precision == "int8" else None,
                note="the accuracy fell by 9.2 points, 1.0 are allowed: try `edgekit export <RUN>`"
                if status == "rejected"
                else "",
            )
        )
    variants.append(
        Variant(
            id="tensorrt-fp16",
            runtime="tensorrt",
            precision="fp16",
            files=[BundleFile.of(folder, "onnx-fp32.bin")],
            executed=False,
            status="unexecuted",
        )
    )
    manifest = Manifest(
        name="digits",
        created=CREATED,
        edgekit="0.1.0",
        classes=classes,
        preprocessing=Preprocessing(image_size=32, resize_to=32),
        input=Tensor(name="images", dtype="uint8", layout="NHWC", shape=[None, 32, 32, 3]),
        outputs=[Tensor(name="logits", dtype="float32", layout="NC", shape=[None, len(classes)])],
        golden=BundleFile.of(folder, "golden.npz"),
        accuracy=Accuracy(top1=trained, samples=360),
        variants=variants,
        provenance={"command": ["edgekit", "export", "runs/digits"]},
    )
    add_confidence(manifest)
    write_manifest(folder, manifest)
    return Bundle.open(folder)


def add_confidence(manifest: Manifest) -> None:
    """The confidence of a classifier that is too sure of itself, for the trained model and for two variants, as the task measures it."""
    task, random = tasks.find(manifest.task), np.random.default_rng(0)
    labels = np.arange(400) % len(manifest.classes)
    logits = (6 * np.eye(len(manifest.classes))[labels] + random.normal(0, 3, (400, len(manifest.classes)))).astype(
        np.float32
    )
    outputs = {"logits": logits}
    confidence = task.calibrated(outputs, labels, "energy", 0.05, None, "probe images")
    assert confidence is not None
    trained = task.decisions(outputs, Known(confidence))
    confidence.quality = task.quality_of(outputs, labels, Known(confidence), None, "test images")
    manifest.confidence, manifest.bundle_schema = confidence, 3
    for variant in manifest.variants[:2]:
        quality = task.quality_of(outputs, labels, Known(confidence), trained, "test images")
        variant.confidence = confidence.model_copy(update={"quality": quality})


def make_latencies(run: Run, samples: int) -> None:
    bundle = Bundle.open(run.path / "export")
    generator = np.random.default_rng(1)
    for variant in bundle.manifest.variants:
        if not variant.executed:
            continue
        median = VARIANTS[variant.id][-1]
        drawn = median * 1e6 * (1 + generator.gamma(2, 0.02, samples))
        drawn[generator.random(samples) < 0.01] *= 2.2
        latency = make_latency(variant, bundle.digest, [int(ns) for ns in drawn])
        write_result(run.path / "bench" / f"{variant.id}-b1.json", latency)


def make_remote(folder: Path, device: str) -> None:
    """Results of another device, twice as slow, with a timeline of sensors and throttling at its end; and one under load, here."""
    bundle = Bundle.open(folder / "export")
    generator = np.random.default_rng(2)
    ticks = 42
    timeline = Timeline(
        round=[i // 14 for i in range(ticks)], seconds=[0.018 * (i % 14) for i in range(ticks)],
        clock_mhz=[1510.0 if i < 30 else 1190.0 for i in range(ticks)], gpu_clock_mhz=[None] * ticks,
        temperature_c=[52 + 0.9 * i for i in range(ticks)], power_w=[5.1 + 0.2 * (i % 3) for i in range(ticks)],
        throttled=[i >= 30 for i in range(ticks)], power_source="INA3221 VDD_IN",
    )  # fmt: skip
    for name, joules in (("onnx-fp32", 0.0041), ("onnx-int8", 0.0029)):
        variant = bundle.variant(name)
        drawn = 2 * VARIANTS[name][-1] * 1e6 * (1 + generator.gamma(2, 0.02, 900))
        latency = make_latency(
            variant, bundle.digest, [int(ns) for ns in drawn], timeline=timeline, energy_joules_per_inference=joules,
            idle_watts=3.2, warnings=["throttled: the clocks were lowered while it was measured"],
        )  # fmt: skip
        write_result(folder / "bench" / device / f"{name}-b1.json", latency)
    layers = [LayerTime(name=f"layer{i}.conv", operator="Conv", calls=100, ms=0.05, share=0.2) for i in range(4)] + [
        LayerTime(name="fc", operator="Gemm", calls=100, ms=0.05, share=0.2)
    ]
    profile = Profile(
        bundle="runs/digits/export", bundle_digest=bundle.digest, variant="onnx-fp32", runtime="onnxruntime", runtime_version="1.31.0",
        precision="fp32", settings={}, batch=1, threads=2, runs=100, run_ms=0.21, layers_ms=0.25, layers=layers,
    )  # fmt: skip
    write_result(folder / "bench" / "profile-onnx-fp32-b1.json", profile)
    load = make_latency(
        bundle.variant("onnx-int8"),
        bundle.digest,
        [int(ns) for ns in drawn],
        scenario="server",
        rate=850.0,
        bound_ms=2.0,
        warnings=[],
    )
    write_result(folder / "bench" / "onnx-int8-b1-server.json", load)


def make_latency(variant: Variant, digest: str, samples_ns: list[int], **changes: Any) -> Latency:
    ms = np.asarray(samples_ns) / 1e6
    content: dict[str, Any] = {
        "bundle": "runs/digits/export",
        "bundle_digest": digest,
        "variant": variant.id,
        "runtime": variant.runtime,
        "runtime_version": "1.31.0" if variant.runtime == "onnxruntime" else "2026.4.0",
        "precision": variant.precision,
        "settings": {"provider": "CPU", "threads": "2"},
        "batch": 1,
        "threads": 2,
        "affinity": [0, 1],
        "quick": True,
        "warmup_runs": 50,
        "samples_ns": samples_ns,
        "rounds": [len(samples_ns) // 3] * 2 + [len(samples_ns) - 2 * (len(samples_ns) // 3)],
        "percentiles_ms": statistics.percentiles(ms),
        "mean_ms": float(ms.mean()),
        "cv": statistics.coefficient_of_variation(ms),
        "drift": statistics.drift(ms),
        "throughput": 1e3 / float(ms.mean()),
        "stages_ms": {"import": 92.0, "load": 11.0, "first_run": 2.0, "preprocess": 0.11, "run": float(np.median(ms)), "end_to_end": 0.7},
        "peak_rss_bytes": 84_000_000,
        "golden_max_abs_diff": variant.parity.max_abs_diff if variant.parity else None,
        "golden_agreement": variant.parity.agreement if variant.parity else None,
        "conditions": {"governor": None, "load": {"before": 0.4, "after": 1.1}},
        "warnings": ["short: less than 10 s or 662 samples, a first look and not a measurement"],
    }  # fmt: skip
    return Latency(**(content | changes))


def write_result(path: Path, measurement: Latency | Evaluation | Profile) -> None:
    command = ["edgekit", "bench" if isinstance(measurement, Latency) else "evaluate", "runs/digits"]
    result = Result(created=CREATED, command=command, seed=0, machine=this_machine(), measurement=measurement)
    result.write(path)


def write_rows(path: Path, rows: list[Any]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
