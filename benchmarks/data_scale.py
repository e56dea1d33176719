"""Time and memory of reading 10,000, 100,000 and 1,000,000 images, the first time and again.

    python benchmarks/data_scale.py [--counts 10000 100000 1000000] [--forms folder shards] [--work FOLDER] [--output FILE]

Makes COUNT distinct PNGs of 16x16 random gray pixels (340 bytes), in folders of 1,000 files or in shards of 10,000 samples. No
file is a copy or a link of another, so that every digest is of its own. Each reading is a process of its own, which loads what
`edgekit train` loads of a pool without labels (`load_splits`):

- first: every image is decoded into the cache;
- again: nothing has changed, as when the same command is run again; with the median of three processes;
- with --streamed, both with `data.stream: true` too, which keeps the digests alone.

With --first-up-to COUNT, larger sets have no first reading: their cache is filled with the same pixels without reading the files, which
gives the same entry, and only reading again is measured.

Reported: seconds by the clock and of processor time, without the import of the libraries; the memory that the process has at its
peak beyond what it had after the imports, in bytes an image. Writing takes about 5 kB of disk an image for folders, 2 kB for shards.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.result import now

SIDE = 16
A_FOLDER, A_SHARD = 1000, 10_000


def png(i: int) -> bytes:
    """The image of a number as a file. Written by hand, since Pillow would take most of the time."""
    rows = np.pad(pixels_of(i), ((0, 0), (1, 0))).tobytes()  # each begins with its filter: none
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def pixels_of(i: int) -> np.ndarray:
    """(SIDE, SIDE) uint8 of the image of a number: its hash, so that no two are alike."""
    return np.frombuffer(hashlib.shake_128(i.to_bytes(8, "big")).digest(SIDE * SIDE), np.uint8).reshape(SIDE, SIDE)


def write_images(form: str, count: int, folder: Path) -> None:
    """Write the images in a form; where some are there already, the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    if form == "folder":
        for i in range(count):
            if i % A_FOLDER == 0:
                (folder / f"{i // A_FOLDER:05}").mkdir(exist_ok=True)
            path = folder / f"{i // A_FOLDER:05}" / f"{i:07}.png"
            if not path.exists():
                path.write_bytes(png(i))
        return
    for first in range(0, count, A_SHARD):
        path = folder / f"{first // A_SHARD:05}.tar"
        if path.exists():
            continue
        with tarfile.open(path, "w") as archive:
            for i in range(first, min(count, first + A_SHARD)):
                content = png(i)
                member = tarfile.TarInfo(f"{i:07}.png")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def fill(pool: str) -> dict[str, Any]:
    """In this process: decode the same pixels into the cache without reading a file, in place of a first reading that takes too long."""
    from edgekit.data.decode import decode
    from edgekit.data.sources import open_pool
    from edgekit.preprocess import Preprocessing

    source = open_pool(pool)
    numbers = [int(Path(name).stem) for name in source.names]
    decode(
        replace(source, read=lambda i: Image.fromarray(pixels_of(numbers[i]))),
        Preprocessing(image_size=SIDE, resize_to=SIDE),
        0,
    )
    return {}


def read(pool: str, stream: bool) -> dict[str, Any]:
    """In this process: load the splits of a pool without labels, and measure it."""
    import resource

    from edgekit import recipe as recipes
    from edgekit.data.splits import load_splits

    data = recipes.parse(
        {"data": {"labeled": None, "pool": pool, "labels": 10, "image_size": SIDE, "stream": stream}}
    ).data
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, worked = time.perf_counter(), time.process_time()
    splits = load_splits(data)
    _ = splits.pool.digest
    seconds, processor = time.perf_counter() - began, time.process_time() - worked
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {
        "images": len(splits.pool),
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor, 2),
        "peak_bytes_an_image": round(peak / len(splits.pool)),
    }


def in_process(pool: Path, stream: bool, cache: Path, what: str = "--read") -> dict[str, Any]:
    """`read` or `fill` in a process of its own."""
    command = [sys.executable, __file__, what, str(pool), *(["--stream"] if stream else [])]
    done = subprocess.run(
        command, env={**os.environ, "EDGEKIT_CACHE": str(cache)}, stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def readings(pool: Path, stream: bool, cache: Path, filled: bool) -> list[dict[str, Any]]:
    """The first reading, and the one of three further ones that took the median of processor time; only one further where the cache is filled."""
    kind, files = "streamed" if stream else "first", int(pool.name.split("-")[1])
    first = in_process(pool, stream, cache, "--fill" if filled else "--read")
    found = [in_process(pool, stream, cache) for _ in range(1 if filled else 3)]
    again = sorted(found, key=lambda row: float(row["processor_seconds"]))[len(found) // 2]
    rows = [] if filled else [{"files": files, "reading": kind, **first}]
    return [*rows, {"files": files, "reading": "streamed again" if stream else "again", **again}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--forms", nargs="+", default=["folder", "shards"], choices=["folder", "shards"])
    parser.add_argument("--work", type=Path, help="keeps the images between calls")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--streamed", action="store_true", help="also with data.stream: true")
    parser.add_argument(
        "--first-up-to", type=int, default=1_000_000, help="above, the cache is filled without reading the files"
    )
    parser.add_argument("--fill", help=argparse.SUPPRESS)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read or options.fill:
        print(json.dumps(read(options.read, options.stream) if options.read else fill(options.fill)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        for form in options.forms:
            for count in options.counts:
                pool = work / f"{form}-{count}"
                write_images(form, count, pool)
                with tempfile.TemporaryDirectory(dir=work) as cache:
                    for stream in (False, True) if options.streamed else (False,):
                        rows += [
                            {"form": form, **row}
                            for row in readings(pool, stream, Path(cache), count > options.first_up_to)
                        ]
                for row in [row for row in rows if row["form"] == form and row["files"] == count]:
                    print(
                        f"{form:<7} {row['images']:>9,} {row['reading']:<15} {row['seconds']:8.2f} s {row['processor_seconds']:8.2f} s of "
                        f"processor time, {row['peak_bytes_an_image']:6,} bytes an image",
                        flush=True,
                    )
    if options.output:
        machine = this_machine().model_dump(mode="json")
        write_json(
            options.output, {"created": now(), "machine": machine, "load_average": os.getloadavg()[0], "readings": rows}
        )


if __name__ == "__main__":
    main()
