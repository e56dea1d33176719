"""INT8 by edgekit and by Optimum (Hugging Face) of the same float ONNX: size, latency, accuracy drop, seconds.

    uv venv PEERS && uv pip install --python PEERS/bin/python "optimum-onnx[onnxruntime]" datasets "huggingface-hub<1.0"
    python benchmarks/export_peers.py --peer PEERS/bin/python --data CIFAR10 --student runs/a/distill [--quick]

Optimum runs in an environment of its own. It gets edgekit's float graph, the same 300 calibration images, and its own configuration for
this CPU (`avx512_vnni`, or `avx2` where there is no VNNI), static, per channel, once with MinMax and once with percentiles (99.99), which
are its documented ways; the better of the two on the test images is compared. edgekit is told nothing of the test images' labels but the
gate. Latency: ONNX Runtime, batch 1, one thread, the float graph and both INT8 files in turns, each session alone, 20 rounds. Seconds are
those of quantizing alone for both (imports, verification and the float export left out): Optimum's of one method, edgekit's of every file that
it made before one passed; what comparing and verifying those took stands beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.data.splits import load_splits
from edgekit.export.pipeline import ExportOptions, export_classifier
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.models.pixels import PixelClassifier
from edgekit.models.store import load_classifier
from edgekit.preprocess import Preprocessing
from edgekit.quantization import Quantization
from edgekit.quantize.qdq import saturates
from edgekit.recipe import parse
from edgekit.result import now
from edgekit.runtimes import open_session

# What runs in the peer's environment: folder, configuration, calibration method.
PEER = """
import json, sys, time
from importlib import metadata
import numpy as np
from datasets import Dataset, Features, Array3D
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig
folder, isa, method = sys.argv[1:]
images = np.load(f"{folder}/calibration.npy")
features = Features({"image": Array3D(images.shape[1:], "uint8")})
data = Dataset.from_dict({"image": list(images)}, features=features).with_format("numpy")
began = time.monotonic()
quantizer = ORTQuantizer.from_pretrained(folder, file_name="model.onnx")
settings = getattr(AutoQuantizationConfig, isa)(is_static=True, per_channel=True)
ways = {"minmax": AutoCalibrationConfig.minmax, "percentiles": lambda d: AutoCalibrationConfig.percentiles(d, percentile=99.99)}
ranges = quantizer.fit(
    dataset=data, calibration_config=ways[method](data), operators_to_quantize=settings.operators_to_quantize, batch_size=10,
)
quantizer.quantize(save_dir=folder, file_suffix=method, quantization_config=settings, calibration_tensors_range=ranges)
print(json.dumps({"seconds": time.monotonic() - began, "version": metadata.version("optimum-onnx")}))
"""


def accuracy_of(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    session = open_session("onnxruntime", path)
    try:
        logits = np.concatenate([session.run(images[i : i + 100]) for i in range(0, len(images), 100)])
    finally:
        session.close()
    return float((logits.argmax(1) == labels).mean())


def p50s(paths: dict[str, Path], image: NDArray[np.uint8], rounds: int, runs: int) -> dict[str, float]:
    """Medians over all runs, in milliseconds; one thread, the files in turns, one session at a time."""
    times: dict[str, list[int]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, path in paths.items():
            session = open_session("onnxruntime", path, threads=1)
            for i in range(-10, runs):
                began = time.perf_counter_ns()
                session.run(image)
                if i >= 0:
                    times[name].append(time.perf_counter_ns() - began)
            session.close()
    return {name: float(np.median(values)) / 1e6 for name, values in times.items()}


def by_the_peer(python: str, folder: Path, method: str) -> dict[str, Any]:
    script = folder / "peer.py"
    script.write_text(PEER)
    (folder / "config.json").write_text('{"model_type": "resnet"}')  # Optimum opens nothing without one; it is not used
    isa = "avx2" if saturates() else "avx512_vnni"
    done = subprocess.run(
        [python, str(script), str(folder), isa, method], check=False, capture_output=True, text=True, cwd=folder
    )
    if done.returncode:
        return {"method": method, "configuration": isa, "failed": done.stderr.strip().splitlines()[-1]}
    return {"method": method, "configuration": isa, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="the Python of an environment with optimum-onnx")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--student", type=Path, required=True, help="a stage's folder, trained at 32 pixels")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "export_peers.json")
    arguments = parser.parse_args()
    data = arguments.data
    splits = load_splits(parse({"data": {"labeled": str(data / "train"), "test": str(data / "test")}}).data)
    assert splits.test.labels is not None
    count = 500 if arguments.quick else len(splits.test)
    images, labels = splits.test.images[:count], splits.test.labels[:count]
    rows = np.linspace(0, len(splits.pool) - 1, 300).round().astype(int)
    calibration = splits.pool.subset(rows).center_crop(32).images
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        began = time.monotonic()
        bundle: Bundle = export_classifier(
            PixelClassifier(load_classifier(arguments.student), 0.5, 0.25),
            classes=splits.classes,
            preprocessing=Preprocessing(image_size=32, resize_to=32),
            calibration=calibration,
            evaluation=(images, labels),
            output=folder / "edgekit",
            targets=["onnx"],
            timed=False,
            options=ExportOptions(max_drop=0.5),
        )
        whole = time.monotonic() - began
        ours = bundle.variant("onnx-int8")
        quantization = ours.quantization or Quantization()
        float_onnx, int8 = bundle.path / "model.onnx", bundle.path / ours.files[0].path
        (folder / "model.onnx").write_bytes(float_onnx.read_bytes())
        np.save(folder / "calibration.npy", calibration)
        peers = [by_the_peer(arguments.peer, folder, method) for method in ("minmax", "percentiles")]
        paths = {"float": float_onnx, "edgekit": int8}
        for peer in peers:
            path = folder / f"model_{peer['method']}.onnx"
            if "failed" not in peer:
                paths[f"optimum, {peer['method']}"] = path
                peer |= {"bytes": path.stat().st_size, "accuracy": accuracy_of(path, images, labels)}
        p50 = p50s(paths, images[:1], 3 if arguments.quick else 20, 20 if arguments.quick else 200)
        float_accuracy = accuracy_of(float_onnx, images, labels)
        tried = quantization.tried
        making = sum(entry.making_seconds or 0.0 for entry in tried)
        table = [
            {"name": "float", "bytes": float_onnx.stat().st_size, "accuracy": float_accuracy, "p50_ms": p50["float"]}
        ]
        table.append({
            "name": "edgekit", "bytes": int8.stat().st_size, "accuracy": accuracy_of(int8, images, labels),
            "p50_ms": p50["edgekit"], "seconds": making, "files_made": len(tried),
            "seconds_with_verification": sum(entry.seconds for entry in tried),
            "whole_export_seconds": whole, "configuration": quantization.configuration, "strategy": quantization.strategy,
        })  # fmt: skip
        table += [
            {"name": f"optimum, {peer['method']}", "p50_ms": p50.get(f"optimum, {peer['method']}"), **peer}
            for peer in peers
        ]
    for row in table:
        if "failed" in row:
            print(f"{row['name']}: failed: {row['failed']}")
            continue
        drop = (float_accuracy - row["accuracy"]) * 100
        seconds = f"{row['seconds']:6.1f} s" if "seconds" in row else ""
        print(f"{row['name']:<24} {row['bytes'] / 1e3:8.1f} kB  {row['p50_ms']:.3f} ms  drop {drop:+.2f}  {seconds}")
    facts = {"created": now(), "quick": arguments.quick, "machine": this_machine().model_dump(), "test_images": count}
    write_json(arguments.output, {**facts, "rows": table})
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
