"""Views a second of the augmentation on one CPU thread, beside those of an older version of it.

    python benchmarks/augment_throughput.py [--old FILE] [--batch 256] [--rounds 15] [--output FILE.json]

`--old` is an older `augment.py` or `augment/` package, for instance

    git show 40973b3:src/edgekit/data/augment.py > /tmp/augment_old.py

Both make views of the same images, in turns in one process; each call is timed by the thread's CPU clock, which other
processes on the machine disturb least, and the fastest call of each counts. The account below it times the parts of the new one.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edgekit.data.augment import Augment, transform
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.recipe import Augmentation
from edgekit.result import now

SETTINGS = [(32, 32), (96, 110)]  # side of the views and of the stored images: the defaults of the recipe for both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    old = load(options.old) if options.old else None
    rows = []
    for size, side in SETTINGS:
        row = measure(size, side, options.batch, options.rounds, old)
        rows.append(row)
        print(f"{size} px from {side} px, batch {options.batch}, defaults of the recipe, 1 thread")
        for name, value in row["views_per_second"].items():
            print(f"  {name:<24} {value:8,.0f} views/s")
        print("  " + ", ".join(f"{name} {value:.1f} ms" for name, value in row["parts_ms"].items()))
    if options.output:
        machine = this_machine().model_dump(mode="json")
        write_json(options.output, {"created": now(), "machine": machine, "torch": torch.__version__, "rows": rows})


def load(path: Path) -> Any:
    """The module in a file or package that is not installed."""
    file = path / "__init__.py" if path.is_dir() else path
    spec = importlib.util.spec_from_file_location("augment_old", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def measure(size: int, side: int, batch: int, rounds: int, old: Any) -> dict[str, Any]:
    """Views a second of one view and of two at once, and the milliseconds of each part."""
    pixels = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    new = Augment(Augmentation(), size, 0.5, 0.25)
    calls: dict[str, Callable[[], object]] = {}
    if old is not None:
        before = old.Augment(Augmentation(), size, 0.5, 0.25)
        calls["old"] = lambda: before(pixels, generator)
    calls["new"] = lambda: new(pixels, generator)
    calls["new, two views at once"] = lambda: new(pixels, generator, 2)
    draws = new.draw(batch, side, side, generator)
    images = new._geometry(pixels, draws)
    parts: dict[str, Callable[[], object]] = {
        "draws": lambda: new.draw(batch, side, side, generator),
        "crop, resize, flip": lambda: new._geometry(pixels, draws),
        "jitter": lambda: transform._jitter(images, draws),
        **{name: (lambda name=name: new._some(name, images, draws)) for name in ("gray", "blur") if name in draws.counts},
        "normalization, layout": lambda: transform.normalized(images, 0.0, 1.0),
    }  # fmt: skip
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, call in (calls | parts).items():
            start = time.thread_time()
            call()
            best[name] = min(best.get(name, float("inf")), time.thread_time() - start)
    views = {"old": batch, "new": batch, "new, two views at once": 2 * batch}
    return {
        "size": size,
        "side": side,
        "batch": batch,
        "views_per_second": {name: views[name] / best[name] for name in calls},
        "parts_ms": {name: best[name] * 1e3 for name in parts},
    }


if __name__ == "__main__":
    main()
