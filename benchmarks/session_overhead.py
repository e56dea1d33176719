"""What `Session.run` costs over the bare call of the runtime, at batch 1.

    python benchmarks/session_overhead.py [--pairs 2000] [--output benchmarks/results/session_overhead.json]

In one process, for each runtime that is installed: the same loaded model is run through edgekit's `Session.run` and by the
runtime's own call in turns (edgekit, bare, bare, edgekit, …), each run timed. Reported is the median over the pairs of their
ratio, its 95 % confidence interval (bootstrap), and the difference of the medians in microseconds; of the samples, quantiles and
histograms are kept. The models are small convolutional networks; the goal (at most 3 %) is for those that take
1 ms or more. Needs [export].
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.machine import this_machine
from edgekit.result import now
from edgekit.runtimes import Session, open_session, why_not
from result_files import summarize, write_rows
from small_models import convolutions, write_onnx

SIZE = 32
# width of the layers: about 0.1 ms, 1 ms and 3 ms on one thread of a server's CPU
WIDTHS = (8, 40, 64)
WARMUP = 100


def bare_call(session: Session, images: np.ndarray) -> Callable[[], object]:
    """The runtime's own call for a batch, without anything of edgekit's: what a careful user would write."""
    inner: Any = session
    if session.runtime == "onnxruntime":
        run, outputs, feed = inner._session.run, ["logits"], {inner._input: images}
        return lambda: run(outputs, feed)[0]
    infer, output = inner._calls[1]
    return lambda: infer(images, share_inputs=True)[output]


def compare(session: Session, images: np.ndarray, pairs: int) -> dict[str, Any]:
    """Time both ways in turns and summarize the pairs."""
    bare = bare_call(session, images)
    ours: Callable[[], object] = lambda: session.run(images)  # noqa: E731 - the same kind of call as `bare`
    times = np.zeros((pairs, 2), dtype=np.int64)
    for i in range(-WARMUP, pairs):
        order = ((0, ours), (1, bare)) if i % 2 else ((1, bare), (0, ours))
        for which, call in order:
            began = time.perf_counter_ns()
            call()
            times[i, which] = time.perf_counter_ns() - began
    return {
        "runtime": session.runtime,
        "version": session.version,
        "settings": session.settings,
        "pairs": pairs,
        **figures(times),
    }


def figures(times: np.ndarray) -> dict[str, Any]:
    """What is reported of pairs of times.

    Args:
        times: int64 (pairs, 2), nanoseconds of `Session.run` and of the bare call.
    """
    ratios = times[:, 0] / times[:, 1]
    random = np.random.default_rng(0)
    medians = [float(np.median(random.choice(ratios, len(ratios)))) for _ in range(1000)]
    return {
        "bare_ms": float(np.median(times[:, 1]) / 1e6),
        "session_ms": float(np.median(times[:, 0]) / 1e6),
        "ratio": float(np.median(ratios)),
        "ratio_95": [float(np.percentile(medians, 2.5)), float(np.percentile(medians, 97.5))],
        "difference_us": float((np.median(times[:, 0]) - np.median(times[:, 1])) / 1e3),
        "session_ns": summarize(times[:, 0]),
        "bare_ns": summarize(times[:, 1]),
        "ratios": summarize(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "session_overhead.json")
    arguments = parser.parse_args()
    images = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
    runtimes: list[str] = [name for name in ("onnxruntime", "openvino") if why_not(name) is None]
    measurements = []
    with tempfile.TemporaryDirectory() as folder:
        for width in WIDTHS:
            model = Path(folder, f"{width}.onnx")
            write_onnx(convolutions(width, layers=4), model, SIZE)
            for runtime in runtimes:
                session = open_session(runtime, model, threads=1)
                row = {"width": width, **compare(session, images, arguments.pairs)}
                session.close()
                measurements.append(row)
                low, high = row["ratio_95"]
                print(
                    f"{runtime:12} bare {row['bare_ms']:.3f} ms  session {row['session_ms']:.3f} ms  "
                    f"ratio {row['ratio']:.4f} [{low:.4f}, {high:.4f}]  {row['difference_us']:+.1f} us"
                )
    write_rows(
        arguments.output,
        {
            "what": "latency of Session.run over the runtime's own call at batch 1, one thread, paired and in turns",
            "created": now(),
            "command": ["python", "benchmarks/session_overhead.py", *sys.argv[1:]],
            "machine": this_machine().model_dump(),
            "measurements": measurements,
        },
    )
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
