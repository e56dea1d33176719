"""Images a second of a whole SimCLR step with real data loading: edgekit beside LightlySSL's documented recipe.

    python benchmarks/pretrain_throughput.py DATA [--rounds 3] [--seconds 12] [--output benchmarks/results/pretrain_throughput.json]

DATA is a folder of CIFAR-10's training images (one sub-folder a class). Both sides train the same encoder with the same batch
and resolution; each measurement is a process of its own, edgekit and LightlySSL in turns, and what is reported is the median
over the rounds of the ratio within a round. An image counts once, whatever the number of its views.

- edgekit: `edgekit.train.loop.engine.fit`, as `edgekit train` runs it: decoded images from its cache, augmentation in batches.
- LightlySSL: the loop of its SimCLR example: `SimCLRTransform`, `NTXentLoss`, SGD, a DataLoader; the number of workers is the
  fastest of 0, 1, 2 and 4 in a trial before the rounds. CIFAR-10 is an array in memory as torchvision's CIFAR10 has it, the
  96-pixel images are an image folder (JPEG).

Rows: each side's defaults, both in float32, both in bfloat16 autocast; ResNet-18 at a quarter of the width (base width 16) and
whole. The account of edgekit's step (augmentation, forward, backward and update, the rest) comes from timers around them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.result import now

BATCH = {
    (32, 0.25): 256,
    (32, 1.0): 64,
    (96, 0.25): 64,
    (96, 1.0): 16,
}  # by side and width: a step of seconds on two cores
ROWS = [
    (size, width, precision)
    for size in (32, 96)
    for width in (0.25, 1.0)
    for precision in (("defaults", "fp32", "bf16") if width == 0.25 else ("defaults", "fp32"))
]
WARMUP = 3  # steps


def edgekit_steps(
    folder: Path, size: int, width: float, precision: str, threads: int, seconds: float
) -> Iterator[dict[str, float]]:
    """Train through the engine; one dictionary of seconds a step."""
    import torch

    from edgekit.data.augment import Augment
    from edgekit.data.splits import load_splits
    from edgekit.recipe import parse
    from edgekit.train.loop.engine import fit
    from edgekit.train.loop.loader import ShuffledImages
    from edgekit.train.pretrain import build_method
    from edgekit.train.stages.training_tasks import PretrainTask

    recipe = parse(
        {
            "data": {"labeled": str(folder), "image_size": size, "test": 0.1, "probe": 0.0, "labels": 10},
            "pretrain": {"encoder": {"name": "resnet18", "width": width, "stem": "cifar"}, "batch_size": BATCH[size, width],
                         "projection": {"layers": 2}, "optimizer": {"name": "sgd", "lr": 0.06}},
            "hardware": {"precision": {"defaults": "auto"}.get(precision, precision)},
        }
    )  # fmt: skip
    splits = load_splits(recipe.data)
    torch.manual_seed(0)
    method = build_method(recipe.pretrain, size, len(splits.pool))
    augment = Augment(recipe.pretrain.augmentation, size, recipe.data.mean, recipe.data.std)
    clock = time.perf_counter
    times: list[dict[str, float]] = []

    class Done(Exception):
        pass

    class Timed(PretrainTask):
        """The task with a clock in it. Stops the training when enough steps were seen."""

        began = last = 0.0
        forward_ended = augmented = 0.0

        def forward(self, *arguments: Any, **named: Any) -> Any:
            start = clock()
            if self.last:
                times[-1]["backward and update"] = self.updated - self.forward_ended
                times[-1]["loading and the loop"] = start - self.updated
                times[-1]["step"] = start - self.last
            self.began = self.began or (start if len(times) >= WARMUP else 0.0)
            if self.began and start - self.began > seconds and len(times) >= WARMUP + 2:
                raise Done
            self.last, self.augmented = start, 0.0
            outcome = super().forward(*arguments, **named)
            self.forward_ended = clock()
            whole = self.forward_ended - start
            times.append({"augmentation": self.augmented, "forward and loss": whole - self.augmented})
            return outcome

        def after_step(self, done: float) -> None:
            super().after_step(done)
            self.updated = clock()

    task = Timed(method, augment)
    original = Augment.__call__

    def timed_augment(self: Augment, *arguments: Any) -> Any:
        start = clock()
        views = original(self, *arguments)
        task.augmented += clock() - start
        return views

    Augment.__call__ = timed_augment  # type: ignore[method-assign]
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as run, contextlib.suppress(Done):
        fit(
            task, ShuffledImages(splits.pool, BATCH[size, width], 0), Path(run), stage="pretrain", epochs=10_000,
            optimizer=recipe.pretrain.optimizer, seed=0, hardware=recipe.hardware,
        )  # fmt: skip
    yield from times[:-1] if "step" not in times[-1] else times


def lightly_steps(
    folder: Path, size: int, width: float, precision: str, threads: int, seconds: float, workers: int
) -> Iterator[dict[str, float]]:
    """The loop of LightlySSL's SimCLR example; one dictionary of seconds a step."""
    import torch
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from PIL import Image
    from torchvision.datasets import ImageFolder

    from edgekit.models.resnet import ResNet

    transform = SimCLRTransform(input_size=size, gaussian_blur=0.0 if size == 32 else 0.5)
    dataset: Any = ImageFolder(str(folder), transform)
    if size == 32:
        arrays = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in dataset.samples])

        class InMemory(torch.utils.data.Dataset):  # as torchvision.datasets.CIFAR10 reads it
            def __len__(self) -> int:
                return len(arrays)

            def __getitem__(self, i: int) -> Any:
                return transform(Image.fromarray(arrays[i])), 0

        dataset = InMemory()
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=BATCH[size, width], shuffle=True, drop_last=True, num_workers=workers
    )
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    backbone = ResNet("resnet18", width, "cifar")
    model = torch.nn.Sequential(
        backbone, SimCLRProjectionHead(backbone.feature_dim, backbone.feature_dim, 128)
    )  # fmt: skip
    criterion, optimizer = NTXentLoss(), torch.optim.SGD(model.parameters(), lr=0.06)
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    began, steps, last = 0.0, 0, time.perf_counter()
    while True:
        for batch in loader:
            with autocast:
                (first, second), _ = batch
                loss = criterion(model(first), model(second))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            steps, time_now = steps + 1, time.perf_counter()
            yield {"step": time_now - last}
            last = time_now
            began = began or (last if steps >= WARMUP else 0.0)
            if began and last - began > seconds and steps >= WARMUP + 2:
                return


def one(
    side: str, folder: Path, size: int, width: float, precision: str, threads: int, seconds: float, workers: int
) -> dict[str, Any]:
    """Measure one side in this process: images a second over all steps after the warm-up, and the account of a step."""
    if side == "edgekit":
        steps = list(edgekit_steps(folder, size, width, precision, threads, seconds))[WARMUP:]
    else:
        steps = list(lightly_steps(folder, size, width, precision, threads, seconds, workers))[WARMUP:]
    total = sum(step["step"] for step in steps)
    account = {name: sum(step[name] for step in steps) / total for name in steps[0] if name != "step"}
    return {"images_per_second": BATCH[size, width] * len(steps) / total, "steps": len(steps), "account": account}


def photographs(folder: Path) -> Path:
    """1,280 JPEG tiles of 96 pixels from scikit-learn's two photographs, in two classes."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    for name, photograph in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        for i in range(640):
            top, left = (random.integers(0, side - 96) for side in photograph.shape[:2])
            tile = Image.fromarray(photograph[top : top + 96, left : left + 96])
            tile.save(folder / name / f"{i:03}.jpg", quality=90)
    return folder


def measure(side: str, folder: Path, row: tuple[int, float, str], options: argparse.Namespace, workers: int) -> Any:
    """One measurement in a process of its own."""
    size, width, precision = row
    command = [sys.executable, __file__, str(folder), "--one", side, str(size), str(width), precision, str(workers),
               "--seconds", str(options.seconds), "--threads", str(options.threads)]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement, after the warm-up")
    parser.add_argument("--threads", type=int, default=this_machine().cores)
    parser.add_argument("--workers", type=int, help="of LightlySSL's DataLoader; default the fastest of 0, 1, 2 and 4")
    parser.add_argument("--rows", default="", help="size:width:precision,…; default all")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "pretrain_throughput.json")
    options = parser.parse_args()
    if options.one:
        side, size, width, precision, workers = options.one
        found = one(
            side, options.data, int(size), float(width), precision, options.threads, options.seconds, int(workers)
        )
        print(json.dumps(found))
        return
    chosen = [(int(a), float(b), c) for a, b, c in (row.split(":") for row in options.rows.split(",") if row)] or ROWS
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        tiles = photographs(Path(temporary) / "tiles")
        for row in chosen:
            size, width, precision = row
            folder = options.data if size == 32 else tiles
            trial = (
                {n: measure("lightly", folder, row, options, n)["images_per_second"] for n in (0, 1, 2, 4)}
                if options.workers is None
                else {options.workers: 0.0}
            )
            workers = max(trial, key=trial.__getitem__)
            rounds = []
            for i in range(options.rounds):
                order = ("edgekit", "lightly") if i % 2 == 0 else ("lightly", "edgekit")
                rounds.append({side: measure(side, folder, row, options, workers) for side in order})
            ratios = [r["edgekit"]["images_per_second"] / r["lightly"]["images_per_second"] for r in rounds]
            results.append(
                {"size": size, "width": width, "precision": precision, "batch": BATCH[size, width], "workers": workers,
                 "workers_trial": trial, "ratio": statistics.median(ratios), "ratios": ratios, "rounds": rounds}
            )  # fmt: skip
            show(results[-1])
            write_json(options.output, content(options, results, complete=len(results) == len(chosen)))
    print(f"written to {options.output}")


def show(result: dict[str, Any]) -> None:
    speed = {
        side: statistics.median(r[side]["images_per_second"] for r in result["rounds"])
        for side in ("edgekit", "lightly")
    }
    account = ", ".join(f"{name} {share:.0%}" for name, share in result["rounds"][-1]["edgekit"]["account"].items())
    print(
        f"{result['size']:>3} px  ResNet-18 x{result['width']:<4}  {result['precision']:<8}  edgekit {speed['edgekit']:7.1f}/s  "
        f"LightlySSL {speed['lightly']:7.1f}/s ({result['workers']} workers)  ratio {result['ratio']:.2f}   [{account}]",
        flush=True,
    )


def content(options: argparse.Namespace, results: list[dict[str, Any]], complete: bool) -> dict[str, Any]:
    return {
        "created": now(),
        "complete": complete,
        "command": ["python", "benchmarks/pretrain_throughput.py", "DATA", f"--rounds={options.rounds}",
                    f"--seconds={options.seconds:g}", f"--threads={options.threads}"],
        "machine": this_machine().model_dump(),
        "seed": 0,
        "rows": results,
    }  # fmt: skip


if __name__ == "__main__":
    main()
