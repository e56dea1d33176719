"""Speed: images a second of a whole SimCLR step through the engine, its share of the GPU's bf16 peak, and LightlySSL's loop beside it.

An image counts once, whatever the number of its views. Of a training only the steps after the warm-up count, from one synchronization
with the GPU to another; no clock inside a step waits for it. Both sides train ResNet-18 with the CIFAR stem in bfloat16 autocast on the
same random uint8 images of 32 pixels, in turns. LightlySSL's is the loop of its SimCLR example: `SimCLRTransform` on PIL images in a
`DataLoader` with a worker a core, `NTXentLoss`, SGD.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import SEED, Options, Record, Unexecuted
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgekit import recipe as recipes
from edgekit.data.augment import Augment
from edgekit.data.images import ImageSet
from edgekit.processors import usable_cpus
from edgekit.recipe import Hardware
from edgekit.train.loop import engine
from edgekit.train.loop.collapse import effective_rank, projection_std
from edgekit.train.loop.loader import ShuffledImages
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome
from edgekit.train.pretrain import build_method
from edgekit.train.pretrain.losses import nt_xent
from edgekit.train.stages.training_tasks import PretrainTask

SIZE, IMAGES, WARMUP, GOAL = 32, 50_000, 10, 8.0
# Dense bf16 operations a second by the name that the driver gives (NVIDIA's data sheets; H100 SXM and H200 are the same chip).
PEAK = {"H200": 989.4e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989.4e12, "A100": 312e12, "L4": 121e12}


class Setting:
    """What is measured: whole on a GPU, small in a rehearsal."""

    def __init__(self, options: Options) -> None:
        small = options.rehearse
        self.options = options
        self.batch = 32 if small else 512
        self.seconds = 2.0 if small else 3.0
        self.warmup = 2 if small else WARMUP
        self.rounds = 1 if small else 2
        self.images = np.random.default_rng(SEED).integers(
            0, 256, (2_000 if small else IMAGES, SIZE, SIZE, 3), dtype=np.uint8
        )
        self.config = recipes.parse(
            {
                "pretrain": {
                    "encoder": {"name": "resnet18", "width": 0.125 if small else 1.0, "stem": "cifar"}, "projection": {"layers": 2},
                    "batch_size": self.batch, "optimizer": {"name": "sgd", "lr": 0.06, "warmup_epochs": 0},
                }
            }
        ).pretrain  # fmt: skip

    def task(self) -> PretrainTask:
        torch.manual_seed(SEED)
        return PretrainTask(
            build_method(self.config, SIZE, len(self.images)), Augment(self.config.augmentation, SIZE, 0.5, 0.25)
        )

    def synchronize(self) -> float:
        """The time when everything that was queued is done."""
        if self.options.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class Done(Exception):
    """Enough steps were seen."""


class Timed(nn.Module):
    """A task that ends its training when enough was measured. `host` is the time that the host needs to queue a step's forward pass."""

    def __init__(self, task: PretrainTask, setting: Setting) -> None:
        super().__init__()
        self.task = task
        self.setting = setting
        self.steps = 0
        self.began = self.ended = 0.0
        self.host = 0.0

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
        if self.steps == self.setting.warmup:
            self.began = self.setting.synchronize()
            self.host = 0.0
        if self.began and time.perf_counter() - self.began > self.setting.seconds:
            self.ended = self.setting.synchronize()
            raise Done
        self.steps += 1
        start = time.perf_counter()
        outcome = self.task(batch, draws, monitor=False)
        self.host += time.perf_counter() - start
        return outcome

    def after_step(self, done: float) -> None:
        self.task.after_step(done)

    def found(self) -> dict[str, float]:
        steps, seconds = self.steps - self.setting.warmup, self.ended - self.began
        return {
            "images_per_second": steps * self.setting.batch / seconds, "step_ms": seconds / steps * 1e3, "steps": steps,
            "host_forward_ms": self.host / steps * 1e3, "warm_up_seconds": self.warm_up,
        }  # fmt: skip

    warm_up = 0.0


def run(record: Record) -> None:
    setting = Setting(record.options)
    record.about["what"] = __doc__
    flops = record.check("operations of a step", lambda: operations(setting)).get("a_step", 0.0)
    speeds: dict[str, list[float]] = {"edgekit": [], "lightly": []}

    def measured(side: str, run: Any) -> dict[str, Any]:
        found = run()
        speeds[side].append(found["images_per_second"])
        return found | share_of_peak(found["step_ms"], flops)

    for i in range(setting.rounds):
        sides = [("edgekit", lambda: ours(setting, compiled=False)), ("lightly", lambda: lightly(setting))]
        for side, function in sides if i % 2 == 0 else reversed(sides):
            record.check(f"{side}, round {i + 1}", lambda s=side, f=function: measured(s, f), needs=setting.seconds + 2)  # type: ignore[misc]
    record.check("edgekit beside LightlySSL", lambda: ratio(speeds, record.options))
    record.check("parts of a step", lambda: parts(setting), needs=3)
    record.check(
        "edgekit, compiled", lambda: (c := ours(setting, compiled=True)) | share_of_peak(c["step_ms"], flops), needs=15
    )


def ours(setting: Setting, compiled: bool) -> dict[str, float]:
    """The engine's own loop."""
    timed, began = Timed(setting.task(), setting), time.perf_counter()
    pool = ImageSet(setting.images, *([f"{i:032x}" for i in range(len(setting.images))] for _ in range(2)), None)
    hardware = Hardware(
        accelerator="cpu" if setting.options.rehearse else "gpu",
        precision="bf16",
        compile=compiled,
        checkpoint_seconds=3600,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Done):
        engine.fit(
            timed, ShuffledImages(pool, setting.batch, SEED), Path(folder), stage="pretrain", epochs=10_000,
            optimizer=setting.config.optimizer, seed=SEED, hardware=hardware,
        )  # fmt: skip
    timed.warm_up = timed.began - began
    return timed.found()


def lightly(setting: Setting) -> dict[str, float]:
    """LightlySSL's documented loop."""
    try:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform
    except ImportError as error:
        raise Unexecuted(f"lightly cannot be imported here: {error}") from error
    from PIL import Image

    device = setting.options.device
    transform = SimCLRTransform(input_size=SIZE, gaussian_blur=0.0)

    class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]  # as torchvision.datasets.CIFAR10 reads it
        def __len__(self) -> int:
            return len(setting.images)

        def __getitem__(self, i: int) -> Any:
            return transform(Image.fromarray(setting.images[i])), 0

    workers, backbone = usable_cpus(), setting.task().method.model.encoder
    loader = torch.utils.data.DataLoader(
        Pictures(),
        batch_size=setting.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    model = (
        nn.Sequential(backbone, SimCLRProjectionHead(backbone.feature_dim, backbone.feature_dim, 128))
        .to(device)
        .train()
    )
    criterion, optimizer = NTXentLoss(), torch.optim.SGD(model.parameters(), lr=0.06)
    began, steps, start = 0.0, 0, time.perf_counter()
    for batch in forever(loader):
        if steps == setting.warmup:
            began = setting.synchronize()
        if began and time.perf_counter() - began > setting.seconds:
            break
        (first, second), _ = batch
        with torch.autocast(device.type, torch.bfloat16):
            loss = criterion(model(first.to(device)), model(second.to(device)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    seconds, counted = setting.synchronize() - began, steps - setting.warmup
    return {
        "images_per_second": counted * setting.batch / seconds, "step_ms": seconds / counted * 1e3, "steps": counted,
        "workers": workers, "warm_up_seconds": began - start,
    }  # fmt: skip


def forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def operations(setting: Setting) -> dict[str, Any]:
    """Floating-point operations of convolutions and matrix products, forward and backward, counted by PyTorch operator by operator.

    Those of the network are linear in the number of views, so that few are counted and multiplied; those of the loss are counted whole.
    The augmentation's are left out: they are no part of the network.
    """
    method = setting.task().method.cpu().train()
    few, views = 4, 2 * setting.batch
    with FlopCounterMode(display=False) as counter:
        method.model.head(method.model.encoder(torch.randn(few, 3, SIZE, SIZE))).sum().backward()
    network = counter.get_total_flops() / few
    first, second = torch.randn(2, setting.batch, 128, requires_grad=True).unbind()
    with FlopCounterMode(display=False) as counter:
        nt_xent(first, second, 0.5).backward()
    loss = counter.get_total_flops()
    return {"a_view": network, "loss": loss, "a_step": network * views + loss}


def share_of_peak(step_ms: float, flops: float) -> dict[str, Any]:
    if not torch.cuda.is_available() or not flops:
        return {}
    name = torch.cuda.get_device_name(0)
    peak = next((value for part, value in PEAK.items() if all(word in name for word in part.split())), None)
    achieved = flops / step_ms * 1e3
    return {"flops_per_second": achieved, "peak": peak, "share_of_bf16_peak": achieved / peak if peak else None}


def ratio(speeds: dict[str, list[float]], options: Options) -> dict[str, Any]:
    """The median of the ratios within a round; the goal holds for a GPU."""
    if not speeds["lightly"] or not speeds["edgekit"]:
        raise Unexecuted("one of the two sides was not measured")
    ratios = [ours / theirs for ours, theirs in zip(speeds["edgekit"], speeds["lightly"], strict=False)]
    found = {"ratio": statistics.median(ratios), "ratios": ratios, "goal": GOAL}
    return found if options.rehearse else {**found, "passed": found["ratio"] >= GOAL}


def parts(setting: Setting) -> dict[str, Any]:
    """Milliseconds of what a step is made of, each alone and waited for; medians of 10."""
    device, task = setting.options.device, setting.task()
    task.to(device).train()
    pixels = torch.from_numpy(setting.images[: setting.batch]).to(device)
    augment, generator = task.augment, torch.Generator().manual_seed(SEED)
    assert isinstance(augment, Augment)
    with torch.autocast(device.type, torch.bfloat16):
        views = augment(pixels, generator, 2)
        features = task.method.model.encoder(views)
        projections = task.method.model.head(features)

    def forward_backward() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            first, second = task.method.model.head(task.method.model.encoder(views)).chunk(2)
            loss = nt_xent(first, second, 0.5)
        loss.backward()

    jobs = {
        "draws_on_the_cpu": lambda: augment.draw(2 * setting.batch, SIZE, SIZE, generator),
        "augmentation": lambda: augment(pixels, generator, 2),
        "forward_and_backward": forward_backward,
        "collapse_monitor_once_an_epoch": lambda: (
            effective_rank(features.detach()),
            projection_std(projections.detach()),
        ),
    }
    return {name: statistics.median(_milliseconds(job, setting) for _ in range(10)) for name, job in jobs.items()}


def _milliseconds(job: Any, setting: Setting) -> float:
    start = setting.synchronize()
    job()
    return (setting.synchronize() - start) * 1e3
