"""edgekit's p50 against the runtimes' own ways to measure: OpenVINO's benchmark_app, and a bare loop over ONNX Runtime.

    python benchmarks/against_peers.py [--pairs 4] [--seconds 5] [--quick]

The same model file, threads and settings, in turns, each in a fresh process: edgekit, the other, the other, edgekit, … Reported
is the median over the pairs of the ratio of their p50; the goal is within 2 %. `benchmark_app` (comes with OpenVINO) runs with one
stream, -api sync and -infer_precision f32, which is what its latency hint sets (with the hint it takes no -nthreads); the bare loop is
what a careful user writes: a warm-up, then `InferenceSession.run` between two readings of `time.perf_counter_ns`.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgekit.bench.process import run_worker
from edgekit.bench.request import Request
from peers import SIZE, bundle_here, finish, parser, ratio

BARE_LOOP = """
import sys, time, statistics
import numpy as np, onnxruntime as ort
model, images, threads, seconds = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
options = ort.SessionOptions()
options.intra_op_num_threads = threads
options.inter_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
for _ in range(100):
    session.run(["logits"], {"image": images})
samples, end = [], time.perf_counter() + seconds
while time.perf_counter() < end:
    began = time.perf_counter_ns()
    session.run(["logits"], {"image": images})
    samples.append(time.perf_counter_ns() - began)
print(statistics.median(samples) / 1e6)
"""


def bare_loop(model: Path, images: Path, threads: int, seconds: float) -> float:
    """p50 in ms of ONNX Runtime by itself."""
    command = [sys.executable, "-c", BARE_LOOP, str(model), str(images), str(threads), str(seconds)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def benchmark_app(model: Path, images: Path, threads: int, seconds: float) -> float:
    """p50 in ms by OpenVINO's benchmark_app, from its own statistics file."""
    app = shutil.which("benchmark_app", path=str(Path(sys.executable).parent)) or shutil.which("benchmark_app")
    if app is None:
        raise SystemExit("benchmark_app is not here: it comes with the openvino package")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            app, "-m", str(model), "-i", f"image:{images}", "-shape", f"image[1,{SIZE},{SIZE},3]", "-d", "CPU", "-hint", "none", "-nstreams", "1",
            "-api", "sync", "-infer_precision", "f32", "-nthreads", str(threads), "-t", str(max(1, round(seconds))),
            "-inference_only", "-report_type", "no_counters", "-report_folder", folder, "-json_stats",
        ]  # fmt: skip
        environment = {
            **os.environ,
            "CI": "true",
        }  # the one switch that keeps OpenVINO's own tools from reporting their use
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"benchmark_app failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        report = json.loads(Path(folder, "benchmark_report.json").read_text())
    return float(report["execution_results"]["latency (ms)"])  # its -latency_percentile, 50 where none is asked for


def main() -> None:
    arguments = parser(__doc__, "against_peers.json", pairs=4, seconds=5.0).parse_args()
    pairs, seconds = (1, 0.5) if arguments.quick else (arguments.pairs, arguments.seconds)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundle_here(Path(folder, "bundle"))
        images = Path(folder, "images.npy")
        np.save(images, bundle.golden()[0][:1])
        for variant, name, peer in (
            ("onnx-fp32", "a bare loop over onnxruntime", bare_loop),
            ("openvino-fp16", "benchmark_app", benchmark_app),
        ):
            model = bundle.path / bundle.variant(variant).files[0].path
            request = Request(
                str(bundle.path), variant, bundle.variant(variant).runtime, 1, arguments.threads, seconds, 11
            )
            ours, theirs = [], []
            for i in range(pairs):
                for turn in (0, 1) if i % 2 else (1, 0):
                    if turn:
                        ours.append(statistics.median(run_worker(request).samples_ns) / 1e6)
                    else:
                        theirs.append(peer(model, images, arguments.threads, seconds))
            both = ratio(ours, theirs)
            rows.append(
                {
                    "variant": variant,
                    "peer": name,
                    "threads": arguments.threads,
                    "pairs": pairs,
                    "seconds": seconds,
                    "edgekit_p50_ms": ours,
                    "peer_p50_ms": theirs,
                    "ratio": both,
                }
            )
            print(
                f"{variant:14} p50: edgekit {np.median(ours):.3f} ms, {name} {np.median(theirs):.3f} ms, ratio "
                f"{both['median']:.4f} [{both['low']:.4f}, {both['high']:.4f}]"
            )
    finish(arguments, "p50 at batch 1, edgekit over the runtimes' own tools, in turns in fresh processes", rows)


if __name__ == "__main__":
    main()
