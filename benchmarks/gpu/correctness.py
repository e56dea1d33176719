"""Correctness on the GPU: the same numbers as the CPU, no host wait in a step, and what happens when something goes wrong."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import resumed
import steps
import torch
from record import SEED, Options, Record
from torch import distributed as dist
from torch import nn

from edgekit.data.augment import Augment
from edgekit.data.images import ImageSet
from edgekit.errors import EdgekitError
from edgekit.recipe import Augmentation, Hardware, Optimizer
from edgekit.train.loop import engine
from edgekit.train.loop.devices import full_float32
from edgekit.train.loop.distributed import _Gather, synchronize_batchnorm
from edgekit.train.loop.loader import ShuffledImages
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome
from edgekit.train.pretrain import build_method
from edgekit.train.pretrain.simclr import SimCLR
from edgekit.train.stages.training_tasks import PretrainTask

AUGMENTATION = 1e-5  # largest difference of a pixel in [0, 1]
SGD = Optimizer(name="sgd", lr=0.05, warmup_epochs=0)


def run(record: Record) -> None:
    options, device = record.options, record.options.device
    record.about["bound"] = steps.__doc__
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:
        waiting = beside.submit(resumed.compare, Path(folder), options)  # its processes start while the rest is checked
        for dtype in ("float32", "bfloat16"):
            for name in steps.names():
                record.check(f"step of {name}, {dtype}", lambda n=name, d=dtype: steps.compare(n, d, device), needs=1)  # type: ignore[misc]
        record.check("augmentation", lambda: augmentation(device), needs=1)
        for name in steps.names():
            record.check(f"no host wait in a step of {name}", lambda n=name: host_waits(n, options), needs=2)  # type: ignore[misc]
        record.check("out of memory", lambda: out_of_memory(options), needs=5)
        record.check("resume after a kill", waiting.result, needs=1)
    # Last: a hang of NCCL costs nothing else.
    record.check("one-process collectives", lambda: collectives(device), needs=3)


def augmentation(device: torch.device) -> dict[str, Any]:
    """The same draws on the CPU and on the device; every operation but noise, whose pixels the device draws."""
    config = Augmentation(crop=0.8, rotate=0.5, jitter=0.8, gray=0.3, blur=0.5, sobel=0.2, cutout=0.5)
    worst = {}
    for side, size in ((32, 32), (40, 32), (110, 96)):
        generator = torch.Generator().manual_seed(SEED)
        pixels = torch.randint(0, 256, (64, side, side, 3), dtype=torch.uint8, generator=generator)
        augment = Augment(config, size, 0.5, 0.25)
        draws = augment.draw(2 * len(pixels), side, side, generator)
        with full_float32():
            there = augment.apply(pixels.to(device), draws.to(device)).cpu()
        worst[f"{size} px from {side} px"] = float((there - augment.apply(pixels, draws)).abs().max())
    return {"passed": max(worst.values()) <= AUGMENTATION, "largest_difference": worst, "bound": AUGMENTATION}


class Watched(PretrainTask):
    """From the third step to the sixth, PyTorch raises where the host waits for the GPU: in the step and between steps."""

    begun = 0

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
        self.begun += 1
        if self.begun == 3:
            torch.cuda.set_sync_debug_mode("error")
        return super().forward(batch, draws, monitor)

    def after_step(self, done: float) -> None:
        super().after_step(done)
        if self.begun == 6:
            torch.cuda.set_sync_debug_mode("default")


def host_waits(name: str, options: Options) -> dict[str, Any]:
    """Eight steps through the engine, the last of which is the epoch's (it reads the loss, and may wait)."""
    options.needs_cuda("torch.cuda.set_sync_debug_mode")
    config = steps.settings(name)
    torch.manual_seed(SEED)
    task = Watched(build_method(config, steps.SIZE, 8 * steps.BATCH), Augment(Augmentation(), steps.SIZE, 0.5, 0.25))
    try:
        fit(task, images(8 * steps.BATCH), steps.BATCH, options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"passed": task.begun == 8, "steps": task.begun}


def fit(task: nn.Module, pool: ImageSet, batch: int, options: Options, **hardware: Any) -> dict[str, float]:
    """Train for one epoch, as `edgekit train` does."""
    with tempfile.TemporaryDirectory() as folder:
        return engine.fit(
            task, ShuffledImages(pool, batch, SEED), Path(folder), stage="pretrain", epochs=1, optimizer=SGD, seed=SEED,
            hardware=Hardware(accelerator="cpu" if options.rehearse else "gpu", checkpoint_seconds=3600, **hardware),
        )  # fmt: skip


def images(count: int, side: int = steps.SIZE) -> ImageSet:
    """Random images."""
    pixels = np.random.default_rng(SEED).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return ImageSet(pixels, [f"{i}.png" for i in range(count)], [f"{i:032x}" for i in range(count)], None)


def collectives(device: torch.device) -> dict[str, Any]:
    """NCCL in one process: gathering with gradient, synchronized BatchNorm, and a DDP step that is the plain one."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            backend, init_method=f"file://{folder}/store", world_size=1, rank=0, timeout=timedelta(seconds=20)
        )
        try:
            rows = torch.randn(8, 4, device=device, requires_grad=True)
            gathered = _Gather.apply(rows)
            (gathered * 3.0).sum().backward()
            exact = bool(torch.equal(gathered, rows)) and bool((rows.grad == 3.0).all())
            gradients = [_gradient(wrapped, device) for wrapped in (False, True)]
        finally:
            dist.destroy_process_group()
    apart = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    # float32 sums in another order: the rounding of one step, amplified as `steps` measures it; a lost factor would be of the order of 1.
    return {
        "passed": exact and apart <= 1e-3,
        "backend": backend,
        "gather_is_exact": exact,
        "ddp_gradient_differs_by": apart,
    }


def _gradient(distributed: bool, device: torch.device) -> torch.Tensor:
    config = steps.settings("simclr")
    torch.manual_seed(SEED)
    method = SimCLR(config, steps.SIZE).to(device)
    task = PretrainTask(method, Augment(Augmentation(), steps.SIZE, 0.5, 0.25)).train()
    whole: nn.Module = task
    if distributed:
        synchronize_batchnorm(task, device)
        whole = nn.parallel.DistributedDataParallel(task, broadcast_buffers=False)
    batch = Batch(
        images=torch.from_numpy(images(steps.BATCH).images).to(device), index=torch.arange(steps.BATCH, device=device)
    )
    draws = StepDraws(torch.Generator().manual_seed(SEED), torch.Generator().manual_seed(SEED))
    with full_float32():
        whole(batch, draws, monitor=False)["loss"].backward()
    return torch.cat([p.grad.flatten() for p in task.parameters() if p.grad is not None]).double().cpu()


def out_of_memory(options: Options) -> dict[str, Any]:
    """A batch that does not fit into a share of the memory ends with a line that names one that does."""
    options.needs_cuda("a GPU's out-of-memory error")
    share = min(1.0, 3 * 2**30 / torch.cuda.get_device_properties(0).total_memory)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        torch.manual_seed(SEED)
        config = steps.settings("simclr").model_copy(
            update={"encoder": steps.settings("simclr").encoder.model_copy(update={"width": 1.0})}
        )
        task = PretrainTask(SimCLR(config, 64), Augment(Augmentation(), 64, 0.5, 0.25))
        try:
            fit(task, images(2048, 64), 2048, options)
        except engine.OutOfMemory as error:
            named = isinstance(error, EdgekitError) and "which fits here" in str(error.hint)
            fits = int(str(error.hint).split("batch_size to ")[1].split(",")[0]) if named else 0
            torch.cuda.empty_cache()
            if named:
                fit(task, images(2 * fits, 64), fits, options)  # what the message says is true
            return {"passed": named, "message": error.message, "hint": error.hint, "memory_gib": 3}
        return {"passed": False, "why": "2,048 images of 64 px fitted into 3 GiB"}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
