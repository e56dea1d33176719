"""The loop: Lightning trains the task of one stage, exactly resumable, with progress, logs and atomic checkpoints.

All randomness of a step comes from a seed of (recipe seed, stage, step), and the order of an epoch from (seed, epoch): a resumed
training needs no random state, can resume within an epoch, and on the CPU ends with the same bits as an uninterrupted one. For
Lightning, the whole training is one epoch of `epochs * steps` batches; epochs are counted here.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from edgekit.errors import EdgekitError
from edgekit.models.encoders import Encoder
from edgekit.progress import Advance, progress
from edgekit.recipe import Hardware, Optimizer
from edgekit.terminal import echo
from edgekit.train.loop.checkpoint import AtomicCheckpoints, check_loops, restoring, resume_from
from edgekit.train.loop.devices import device_for, full_float32, uses_bf16
from edgekit.train.loop.distributed import rank, synchronize_batchnorm, world_size
from edgekit.train.loop.failures import OutOfMemory, interruptible
from edgekit.train.loop.history import History, Observe
from edgekit.train.loop.loader import Ahead, Batches, seed_for
from edgekit.train.loop.memory import is_out_of_memory, keep_freed_memory, largest_that_fits
from edgekit.train.loop.module import StageModule
from edgekit.train.loop.resumable import CHECKPOINT, EARLIER_SECONDS
from edgekit.train.loop.timing import timed_training


def fit(
    task: nn.Module,
    batches: Batches,
    folder: Path,
    *,
    stage: str,
    epochs: int,
    optimizer: Optimizer,
    seed: int,
    hardware: Hardware,
    observe: Observe | None = None,
    observe_every: int = 0,
) -> dict[str, float]:
    """Train `task` in place; resume from `folder/last.ckpt` if it exists.

    Args:
        task: forward(batch, draws, monitor) -> {"loss", "logs"}; may have `after_step(done)`, `constant_lr()` and `lr_shares()`.
        batches: to train on.
        folder: of the stage; receives history.csv, tensorboard/ and, while it trains, last.ckpt.
        stage: its name, for seeds and progress.
        epochs: passes over the images.
        optimizer: with its schedule.
        seed: the recipe's.
        hardware: accelerator, precision, devices, threads.
        observe: called every `observe_every` epochs, after the last step of the epoch; its numbers are added to the history.
        observe_every: 0 for never.

    Returns:
        The log of the last epoch, and under `EARLIER_SECONDS` the time of the sessions before an interruption.

    Raises:
        RunError: the checkpoint is damaged.
        Diverged: the loss became infinite or NaN; the last checkpoint is older.
        OutOfMemory: a batch does not fit into memory.
        TrainingInterrupted: a signal stopped the training.
    """
    _quiet()
    device = device_for(hardware)
    if device.type == "cpu":
        keep_freed_memory()
    task.train()  # a loaded or evaluated model is in evaluation mode, which Lightning does not change
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    if world_size() > 1 and hardware.sync_batchnorm:
        synchronize_batchnorm(task, device)
    if hardware.compile:
        for encoder in (m for m in task.modules() if isinstance(m, Encoder)):
            encoder.compile()
    total = epochs * batches.steps
    module = StageModule(task, optimizer, batches, total, seed_for(seed, stage, "steps"))
    checkpoint = folder / CHECKPOINT
    resume = checkpoint if checkpoint.exists() else None
    timing = timed_training(stage, total, epochs, batches.batch_size)
    last = timing.most if timing else total
    if timing:  # a few steps count as an epoch
        module.epoch_steps = min(total, timing.window)
    done, loops = resume_from(checkpoint, module) if resume else (0, {})
    history = History(folder, stage, module.epoch_steps, epochs, hardware.checkpoint_seconds)
    history.timing = timing
    if observe is not None and observe_every:
        history.observe, history.observe_every = observe, observe_every
    on_gpu, precision = device.type == "cuda", _precision(hardware)
    loader = DataLoader(Ahead(batches, done, last, pin=on_gpu), batch_size=None)
    trainer = pl.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices if world_size() > 1 else 1,
        num_nodes=hardware.nodes,
        strategy=_strategy(hardware),
        precision=precision,
        max_steps=last,
        max_epochs=-1,
        callbacks=[history],
        logger=TensorBoardLogger(folder, name="tensorboard", version="", purge_step=done)
        if rank() == 0 and not timing
        else False,
        plugins=[AtomicCheckpoints(), TorchElasticEnvironment() if world_size() > 1 else LightningEnvironment()],
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        benchmark=on_gpu,
    )
    if resume:
        check_loops(checkpoint, loops, trainer, done)
    if resume and rank() == 0:
        echo(f"{stage}: resumes from step {done} of {total} (epoch {done // batches.steps + 1})", err=True)
    with (
        interruptible(),
        full_float32(),
        _written(folder),
        _bar(stage, total, done, hidden=timing is not None) as advance,
    ):
        history.advance = advance
        try:
            with restoring(checkpoint, lambda: history.began_training) if resume else nullcontext():
                trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            trouble = str(error)
        else:
            return {**history.rows[-1], EARLIER_SECONDS: history.earlier_seconds}
    # Outside the except block: the failed step's tensors are free now.
    fits = largest_that_fits(task, next(batches.stream(done)), device, bf16=precision == "bf16-mixed")
    raise OutOfMemory(
        f"{stage}: out of memory with batches of {batches.batch_size} ({' '.join(trouble.split())[:80]})",
        f"set {stage}.batch_size to {fits * world_size()}, which fits"
        if fits
        else "use a smaller network or image size: not even a batch of 2 fits",
    )


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Raise one clear error if the TensorBoard files cannot be written: its errors name no file, and its thread prints a traceback."""
    before = threading.excepthook

    def quietly(hook_args: threading.ExceptHookArgs) -> None:
        if not isinstance(hook_args.exc_value, OSError):
            before(hook_args)

    threading.excepthook = quietly
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise EdgekitError(
            f"cannot write into {folder}: {error.strerror or error}",
            "check the folder's permissions and the free space",
        ) from error
    finally:
        threading.excepthook = before


def _strategy(hardware: Hardware) -> Any:
    if world_size() == 1:
        return "auto"
    # Buffers are equal on all processes (BatchNorm is synchronized, queues and banks are gathered) or meant to differ.
    return DDPStrategy(broadcast_buffers=False, process_group_backend=dist.get_backend())


@contextmanager
def _bar(stage: str, total: int, done: int, hidden: bool) -> Iterator[Advance | None]:
    """Show the progress in the first process."""
    if rank() > 0 or hidden:
        yield None
        return
    with progress(stage, total, done, "steps") as advance:
        yield advance


def _precision(hardware: Hardware) -> Any:
    return "bf16-mixed" if uses_bf16(hardware) else "32-true"


def _quiet() -> None:
    """Silence the banners and advice of Lightning; edgekit reports what matters."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
