"""How fast the same images decode from a folder, from WebDataset shards and from a Parquet table.

    python benchmarks/data_sources.py IMAGES [--count 5000] [--rounds 3] [--output benchmarks/results/data_sources.json]

IMAGES is a folder of image files; the first COUNT of them (by name) are copied to a temporary folder, packed into shards of
1,000 and written as a table of row groups of 100, so that all three hold the same bytes. Timed, in turns, each round with an
empty cache and the files in the page cache:

- decode: every image once, into the memory-mapped cache (digest, resize, write), as a first `edgekit train` does;
- index: every image once for its digest alone, as a first streamed training does (not for the table, which cannot be streamed);
- stream: shuffled batches of 256 over one epoch, as a streamed training reads them, with nothing else to do;
- pillow: the plain loop over the files, one thread, `Image.open(...).convert("RGB")`, for comparison.

Reported: images/s, each round and their median; and images per second of processor time (all threads together), which other
work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from edgekit.data.decode import decode
from edgekit.data.images import ImageSet
from edgekit.data.source import ImageSource
from edgekit.data.sources import open_pool
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.preprocess import Preprocessing
from edgekit.result import now
from edgekit.train.loop.streaming import shuffled

BATCH = 256
SIZE = 32


def write_copies(images: str, count: int, folder: Path) -> dict[str, str]:
    """The same files in three forms; gives what a recipe would call each."""
    source = open_pool(images)
    contents = [Path(source.path(i)).expanduser().read_bytes() for i in range(min(count, len(source.names)))]
    suffix = Path(source.names[0]).suffix
    for part in ("folder", "shards"):
        (folder / part).mkdir()
    for i, content in enumerate(contents):
        (folder / f"folder/{i:06}{suffix}").write_bytes(content)
    for first in range(0, len(contents), 1000):
        with tarfile.open(folder / f"shards/{first // 1000:06}.tar", "w") as archive:
            for i in range(first, min(first + 1000, len(contents))):
                archive.add(folder / f"folder/{i:06}{suffix}", arcname=f"{i:06}{suffix}")
    pq.write_table(pa.table({"image": contents}), folder / "table.parquet", row_group_size=100)
    return {"folder": f"{folder}/folder", "shards": f"{folder}/shards", "parquet": f"{folder}/table.parquet"}


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """By the clock, and of processor time."""
    began, worked = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - worked


def stream_epoch(source: ImageSource, preprocessing: Preprocessing) -> None:
    """The batches of one epoch; the index is in the cache already."""
    decoded = decode(source, preprocessing, 0, stream=True)
    batches = shuffled(ImageSet(decoded.images, source.names, decoded.digests), BATCH, 0)
    for _ in islice(batches.stream(0), batches.steps):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    preprocessing = Preprocessing(image_size=SIZE, resize_to=SIZE)
    rates: dict[str, list[float]] = {}
    cpu_rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        forms = write_copies(options.images, options.count, folder)
        count = len(open_pool(forms["folder"]).names)
        files = sorted((folder / "folder").iterdir())
        for round_ in range(options.rounds):

            def note(what: str, images: int, taken: tuple[float, float], round_: int = round_) -> None:
                rate, cpu_rate = images / taken[0], images / taken[1]
                rates.setdefault(what, []).append(rate)
                cpu_rates.setdefault(what, []).append(cpu_rate)
                print(
                    f"round {round_ + 1}: {what:<16} {rate:9,.0f} images/s {cpu_rate:9,.0f} a CPU second",
                    file=sys.stderr,
                )

            note("pillow", count, seconds(lambda: [Image.open(file).convert("RGB") for file in files]))
            for form, where in forms.items():
                os.environ["EDGEKIT_CACHE"] = str(folder / f"cache-{form}-{round_}")
                note(f"{form} decode", count, seconds(lambda where=where: decode(open_pool(where), preprocessing, 0)))
                if form == "parquet":
                    continue
                source = open_pool(where)
                note(f"{form} index", count, seconds(lambda s=source: decode(s, preprocessing, 0, stream=True)))
                epoch = count // BATCH * BATCH
                note(f"{form} stream", epoch, seconds(lambda s=source: stream_epoch(s, preprocessing)))
    result = {
        "created": now(),
        "machine": this_machine().model_dump(mode="json"),
        "load_average": os.getloadavg()[0],
        "images": count,
        "rounds": {what: [round(rate, 1) for rate in values] for what, values in rates.items()},
        "median_images_per_second": _medians(rates),
        "median_images_per_cpu_second": _medians(cpu_rates),
    }
    if options.output:
        write_json(options.output, result)
    for what, rate in result["median_images_per_second"].items():
        print(f"{what:<16} {rate:9,.0f} images/s {result['median_images_per_cpu_second'][what]:9,.0f} a CPU second")


def _medians(rates: dict[str, list[float]]) -> dict[str, float]:
    return {what: round(statistics.median(values), 1) for what, values in rates.items()}


if __name__ == "__main__":
    main()
