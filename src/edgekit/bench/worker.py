"""The process that measures: one variant, one batch size, one round. `python -m edgekit.bench.worker REQUEST OUTCOME`.

A fresh process, so that nothing that another variant left behind (threads that spin, memory, caches) is measured with it. It
imports nothing before `main`, since the imports are timed too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.bundle import Bundle
    from edgekit.runtimes import Session

# The picture that decoding and resizing are timed with: what a camera gives, made from a golden image.
_JPEG_SIZE = (640, 480)
_JPEG_QUALITY = 90
_PIPELINE_SECONDS = 0.5
_PIPELINE_RUNS = 11


@dataclass(frozen=True)
class Request:
    """What to measure."""

    bundle: str
    variant: str
    runtime: str
    batch: int
    threads: int
    seconds: float
    runs: int


def main() -> None:
    """Measure as the request file says, and write what came out, or the error, to the outcome file."""
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True

    signal.signal(signal.SIGINT, interrupt)  # what was measured until then is kept
    signal.signal(signal.SIGTERM, interrupt)
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    from edgekit.errors import EdgekitError

    try:
        outcome: dict[str, Any] = _measure(request, lambda: interrupted)
    except EdgekitError as error:
        outcome = {"error": {"kind": type(error).__name__, "message": error.message, "hint": error.hint}}
    Path(sys.argv[2]).write_text(json.dumps(outcome))


def _measure(request: Request, stop: Any) -> dict[str, Any]:
    began = time.perf_counter()
    import importlib

    from edgekit.bundle import Bundle
    from edgekit.runtimes import load
    from edgekit.runtimes.predictor import Predictor  # noqa: F401 - counted: whoever predicts imports it

    importlib.import_module(f"edgekit.runtimes.{request.runtime}")
    imported = time.perf_counter()
    bundle = Bundle.open(request.bundle)
    variant = bundle.variant(request.variant)
    session = load(bundle, variant, threads=request.threads)
    loaded = time.perf_counter()

    import numpy as np

    from edgekit.bench import sensors
    from edgekit.bench.golden import prove
    from edgekit.bench.measure import measure

    images, logits = bundle.golden()
    batch = np.ascontiguousarray(np.resize(images, (request.batch, *images.shape[1:])))
    first = time.perf_counter()
    session.run(batch)
    first_run = time.perf_counter() - first
    proof = prove(session, variant, images, logits, request.batch)

    before = sensors.read()
    timed = measure(lambda: session.run(batch), request.seconds, request.runs, stop=stop)
    after = sensors.read()
    stages = {
        "import": (imported - began) * 1e3,
        "load": (loaded - imported) * 1e3,
        "first_run": first_run * 1e3,
        **({} if timed.interrupted else _pipeline(bundle, session, batch, stop)),
    }
    return {
        **asdict(timed),
        "runtime_version": session.version,
        "settings": session.settings,
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        "stages_ms": stages,
        "peak_rss_bytes": sensors.peak_memory(),
        "golden": asdict(proof),
        "conditions": sensors.conditions(before, after),
    }


def _pipeline(bundle: Bundle, session: Session, pixels: NDArray[np.uint8], stop: Any) -> dict[str, float]:
    """Medians, in milliseconds, of the way from JPEG bytes to the likeliest classes, for a whole batch."""
    import io
    from statistics import median

    import numpy as np
    from PIL import Image

    from edgekit.preprocess import read_image
    from edgekit.runtimes.predictor import likeliest

    jpegs = []
    for array in pixels:
        stream = io.BytesIO()
        Image.fromarray(array).resize(_JPEG_SIZE).save(stream, "JPEG", quality=_JPEG_QUALITY)
        jpegs.append(stream.getvalue())
    preprocessing = bundle.manifest.preprocessing
    times: list[tuple[int, int, int, int]] = []
    end = time.perf_counter() + _PIPELINE_SECONDS
    while not stop() and (time.perf_counter() < end or len(times) < _PIPELINE_RUNS):
        began = time.perf_counter_ns()
        batch = np.stack([preprocessing(read_image(jpeg)) for jpeg in jpegs])
        prepared = time.perf_counter_ns()
        logits = session.run(batch)
        ran = time.perf_counter_ns()
        for row in logits:
            likeliest(row, 5)
        times.append((began, prepared, ran, time.perf_counter_ns()))
    if not times:
        return {}
    return {
        "preprocess": median(t[1] - t[0] for t in times) / 1e6,
        "postprocess": median(t[3] - t[2] for t in times) / 1e6,
        "end_to_end": median(t[3] - t[0] for t in times) / 1e6,
    }


if __name__ == "__main__":
    main()
