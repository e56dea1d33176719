"""Whether memory stays flat over many runs.

    python benchmarks/soak.py [--runs 200000] [--output benchmarks/results/soak.json]

For each CPU runtime, in a fresh process: a session runs a small model again and again, at batch 1 and now and then at another
batch size, and every hundredth of the way reads its resident memory (/proc/self/statm). Reported is the slope of a straight line
through the second half of these readings, in bytes for 1,000 runs, and what the whole half grew by.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.result import now
from edgekit.runtimes import open_session
from peers import RESULTS
from small_models import convolutions, random_images, write_onnx

READINGS = 100
SIZE = 16
EVERY_OTHER_SIZE = 50  # runs between two of another batch size


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak(runtime: str, model: Path, runs: int) -> dict[str, object]:
    """Run and read."""
    session = open_session(runtime, model, threads=1)  # type: ignore[arg-type]
    images = random_images(3, SIZE)
    one, three = images[:1], images
    readings: list[tuple[int, int]] = []
    began = time.perf_counter()
    for i in range(runs):
        session.run(three if i % EVERY_OTHER_SIZE == 0 else one)
        if i % max(1, runs // READINGS) == 0:
            readings.append((i, resident()))
    readings.append((runs, resident()))
    half = np.asarray(readings[len(readings) // 2 :], dtype=float)
    slope = float(np.polyfit(half[:, 0], half[:, 1], 1)[0])
    return {
        "runtime": runtime,
        "version": session.version,
        "runs": runs,
        "seconds": time.perf_counter() - began,
        "slope_bytes_per_1000_runs": slope * 1000,
        "grown_bytes_in_second_half": int(half[-1, 1] - half[0, 1]),
        "resident_bytes": readings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--runtime", help="only this one, in this process")
    parser.add_argument("--output", type=Path, default=RESULTS / "soak.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.onnx")
        write_onnx(convolutions(width=8, layers=2), model, SIZE)
        if arguments.runtime:
            print(json.dumps(soak(arguments.runtime, model, arguments.runs)))
            return
    rows = []
    for runtime in ("onnxruntime", "openvino"):
        command = [sys.executable, __file__, "--runs", str(arguments.runs), "--runtime", runtime]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rows.append(row)
        print(
            f"{runtime:12} {row['runs']:,} runs in {row['seconds']:.0f} s: {row['slope_bytes_per_1000_runs']:+.0f} bytes for 1,000 "
            f"runs, {row['grown_bytes_in_second_half']:+,} bytes over the second half"
        )
    write_json(
        arguments.output,
        {
            "what": "resident memory over many runs; slope over the second half",
            "created": now(),
            "command": ["python", "benchmarks/soak.py", *sys.argv[1:]],
            "machine": this_machine().model_dump(),
            "measurements": rows,
        },
    )
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
