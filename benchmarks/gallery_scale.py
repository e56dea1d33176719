"""How long does a query take in a gallery of 100,000 vectors? On one core, from a file that is mapped into memory.

    python benchmarks/gallery_scale.py [--vectors 100000] [--features 256] [--classes 1000] [--output FILE]

Measured: writing the gallery; opening it (which compares its checksum); the first query, and the median and the fastest of many; 16 queries at
once. Beside them the bare product of matrix and vector, and the same from float16 storage, which halves the file: NumPy has no float16
product, so that each query converts the rows again, block by block.

The fastest query is what the processor can do; the median holds for the load that is stated with it.
"""

from __future__ import annotations

import argparse
import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy is imported

import resource  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from edgekit.files import write_json  # noqa: E402
from edgekit.gallery import Gallery  # noqa: E402
from edgekit.gallery.record import GalleryRecord, Threshold  # noqa: E402
from edgekit.gallery.search import unit  # noqa: E402
from edgekit.gallery.threshold import NEIGHBORS  # noqa: E402
from edgekit.machine import this_machine  # noqa: E402
from edgekit.result import now  # noqa: E402

BLOCK = 2048  # rows of float16 that are converted at a time


def gallery_of(vectors: int, features: int, classes: int) -> Gallery:
    random = np.random.default_rng(0)
    rows = unit(random.standard_normal((vectors, features)).astype(np.float32))
    counts = [len(part) for part in np.array_split(np.arange(vectors), classes)]
    record = GalleryRecord(
        bundle="none", bundle_sha256="0" * 64, model="0" * 64, variant="none", variant_sha256="0" * 64, created=now(), edgekit="0",
        features=features, classes=[f"class {i:06}" for i in range(classes)], counts=counts, threshold=Threshold(value=0.5),
    )  # fmt: skip
    return Gallery(record, rows, np.arange(vectors, dtype=np.uint64))


def timed(function: Callable[[], Any], repeats: int) -> dict[str, float]:
    """The first call, and the median and the fastest of the others, in milliseconds; the median of the time that the processor worked for it,
    which other programs lengthen only by taking memory bandwidth."""
    milliseconds, worked = [], []
    for _ in range(repeats + 1):
        began, cpu = time.perf_counter(), time.process_time()
        function()
        milliseconds.append((time.perf_counter() - began) * 1e3)
        worked.append((time.process_time() - cpu) * 1e3)
    rest = sorted(milliseconds[1:])
    return {
        "cpu_median_ms": round(sorted(worked[1:])[repeats // 2], 3),
        "first_ms": round(milliseconds[0], 3),
        "median_ms": round(rest[len(rest) // 2], 3),
        "fastest_ms": round(rest[0], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gallery_scale.json")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core
    made = gallery_of(arguments.vectors, arguments.features, arguments.classes)
    queries = np.random.default_rng(1).standard_normal((16, arguments.features)).astype(np.float32)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.gallery"
        found["write"] = timed(lambda: made.write(path), 2)
        found["file_bytes"] = path.stat().st_size
        found["open"] = timed(lambda: Gallery.open(path), 5)
        opened = Gallery.open(path)
        found["mapped"] = not opened.vectors.flags.owndata
        found["one query"] = timed(lambda: opened.nearest(queries[:1], 3), arguments.repeats)
        most = max(NEIGHBORS)
        several = replace(opened, record=opened.record.model_copy(update={"neighbors": most}))
        found[f"one query, {most} neighbors"] = timed(lambda: several.nearest(queries[:1], 3), arguments.repeats)
        found["16 queries"] = timed(lambda: opened.nearest(queries, 3), 10)
        query = unit(queries[:1])[0]
        found["bare product, float32"] = timed(lambda: opened.vectors @ query, arguments.repeats)
        halves = opened.vectors.astype(np.float16)

        def half_product() -> None:
            similarities = np.empty(len(halves), np.float32)
            for start in range(0, len(halves), BLOCK):
                similarities[start : start + BLOCK] = halves[start : start + BLOCK].astype(np.float32) @ query

        found["bare product, float16 storage"] = timed(half_product, 10)
        found["float16_bytes"] = halves.nbytes
        expected, got = (opened.vectors @ unit(queries).T, halves.astype(np.float32) @ unit(queries).T)
        found["float16_same_nearest"] = float((expected.argmax(0) == got.argmax(0)).mean())
        found["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    write_json(
        arguments.output,
        {
            "created": now(),
            "machine": this_machine().model_dump(mode="json"),
            "load": os.getloadavg()[0],
            "vectors": arguments.vectors,
            "features": arguments.features,
            "classes": arguments.classes,
            "one_core": True,
            **found,
        },
    )
    for name, value in found.items():
        print(f"{name:<32} {value}")
    print(f"load {os.getloadavg()[0]:.1f}; written to {arguments.output}")


if __name__ == "__main__":
    main()
