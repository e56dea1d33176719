"""What the comparisons with other tools share: a bundle of a given weight, and ratios of what was measured in turns."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.result import now
from small_models import make_bundle

RESULTS = Path(__file__).parent / "results"
SIZE, WIDTH, LAYERS = 32, 48, 5  # a few ms on one thread of a server's CPU


def bundle_here(folder: Path) -> Bundle:
    """A bundle with `onnx-fp32` and `openvino-fp16` (computed in f32), without training."""
    return make_bundle(folder, size=SIZE, width=WIDTH, layers=LAYERS)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Ours over theirs, pair by pair: the median, and its 95 % interval over resampled pairs (bootstrap)."""
    ratios = np.asarray(ours) / np.asarray(theirs)
    random = np.random.default_rng(0)
    medians = [float(np.median(random.choice(ratios, len(ratios)))) for _ in range(2000)]
    low, high = np.percentile(medians, [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def parser(doc: str | None, output: str, pairs: int, seconds: float) -> argparse.ArgumentParser:
    """The options of a comparison."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--pairs", type=int, default=pairs, help="how often each tool measures")
    made.add_argument("--seconds", type=float, default=seconds, help="each time")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--quick", action="store_true", help="a rehearsal: one pair of half a second, nothing written")
    made.add_argument("--output", type=Path, default=RESULTS / output)
    return made


def finish(arguments: argparse.Namespace, what: str, rows: list[dict[str, Any]]) -> None:
    """Write the result, unless it was a rehearsal."""
    if arguments.quick:
        print("a rehearsal: nothing is written")
        return
    write_json(
        arguments.output,
        {
            "what": what,
            "created": now(),
            "command": ["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]],
            "machine": this_machine().model_dump(),
            "measurements": rows,
        },
    )
    print(f"written: {arguments.output}")
