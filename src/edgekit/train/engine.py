"""The loop: one stage's task trained by Lightning, exactly resumable, with progress, logs and a checkpoint that is never half-written.

Everything random in a step is drawn from a seed of (recipe seed, stage, step), and the order of an epoch from (seed, epoch):
a resumed training needs no random state, and on the CPU ends with the same bits as an uninterrupted one.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import pickle
import signal
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from edgekit.data.images import ImageSet
from edgekit.errors import EdgekitError, RunError
from edgekit.files import write_bytes, write_text
from edgekit.progress import Advance, progress
from edgekit.recipe import Hardware, Optimizer
from edgekit.train.collapse import verdict
from edgekit.train.loader import batches, seed_for
from edgekit.train.optim import build_optimizer, warmup_cosine

CHECKPOINT = "last.ckpt"
EARLIER_SECONDS = "earlier_seconds"


class Diverged(EdgekitError):
    """The loss is no longer a number."""


class OutOfMemory(EdgekitError):
    """A batch does not fit into the device's memory."""


class Interrupted(BaseException):
    """Ctrl-C or a termination signal; unlike KeyboardInterrupt, Lightning lets it pass."""


def fit(
    task: nn.Module,
    images: ImageSet,
    folder: Path,
    *,
    stage: str,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer,
    seed: int,
    hardware: Hardware,
) -> dict[str, float]:
    """Train `task` in place on batches of `images`; goes on from `folder/last.ckpt` where there is one.

    Args:
        task: forward(batch, generator, monitor) -> {"loss", "logs"}.
        images: what the batches are drawn from.
        folder: the stage's folder; receives history.csv, tensorboard/ and, while it trains, last.ckpt.
        stage: its name, for seeds and progress.
        epochs: how often the images are seen.
        batch_size: images a step.
        optimizer: and its schedule.
        seed: the recipe's.
        hardware: accelerator, precision, threads.

    Returns:
        The last epoch's log, and under `EARLIER_SECONDS` the time of the sessions before an interruption.

    Raises:
        RunError: the checkpoint is damaged.
        Diverged: the loss became infinite or not a number; the last checkpoint is from before that.
        OutOfMemory: a batch does not fit.
        Interrupted: a signal asked to stop.
    """
    _quiet()
    task.train()  # a loaded or evaluated model comes in evaluation mode, and Lightning leaves modes as they are
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    loader = batches(images, batch_size, seed_for(seed, stage, "order"))
    module = _Stage(task, optimizer, batch_size, epochs, len(loader), seed_for(seed, stage, "steps"))
    history = _History(folder, stage, epochs)
    trainer = pl.Trainer(
        accelerator=hardware.accelerator,
        devices=1,
        precision=_precision(hardware),
        max_epochs=epochs,
        callbacks=[history, _SaveLast(folder / CHECKPOINT, hardware.checkpoint_seconds)],
        logger=TensorBoardLogger(folder, name="tensorboard", version=""),
        plugins=[_AtomicCheckpoints(), LightningEnvironment()],
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=50,
    )
    checkpoint = folder / CHECKPOINT
    resume = checkpoint if checkpoint.exists() else None
    done = _steps_done(checkpoint) if resume else 0
    if resume:
        print(f"{stage}: goes on from epoch {done // len(loader)} of {epochs}", file=sys.stderr)
    with _signals(), progress(stage, epochs * len(loader), done, "steps") as advance:
        history.advance = advance
        try:
            trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"{stage}: out of memory with batches of {batch_size}",
                f"lower {stage}.batch_size or the width of its network",
            ) from error
    return {**history.rows[-1], EARLIER_SECONDS: history.earlier_seconds}


class _Stage(pl.LightningModule):
    def __init__(
        self, task: nn.Module, optimizer: Optimizer, batch_size: int, epochs: int, steps: int, seed: int
    ) -> None:
        super().__init__()
        self.task = task
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.total = epochs * steps
        self.warmup = round(optimizer.warmup_epochs * steps)
        self.steps = steps
        self.seed = seed

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.optimizer, self.task, self.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, self.total, self.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        step_seed = seed_for(self.seed, self.global_step)
        torch.manual_seed(step_seed)  # dropout and the like
        generator = torch.Generator().manual_seed(step_seed)
        outcome = self.task(batch, generator, monitor=batch_idx == self.steps - 1)
        self.log_dict(
            {"loss": outcome["loss"].detach(), **outcome["logs"]},
            on_step=False,
            on_epoch=True,
            batch_size=self.batch_size,
        )
        return outcome["loss"]


class _History(Callback):
    """One row an epoch, kept in the checkpoint so that a resumed training has no gap and no double row; drives the progress."""

    def __init__(self, folder: Path, stage: str, epochs: int) -> None:
        self.folder = folder
        self.stage = stage
        self.epochs = epochs
        self.rows: list[dict[str, float]] = []
        self.earlier_seconds = 0.0
        self.began = time.monotonic()
        self.advance: Advance | None = None
        self.warned = False

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.earlier_seconds + time.monotonic() - self.began}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self.earlier_seconds = state_dict["seconds"]

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self.advance:
            self.advance(1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch + 1, "lr": trainer.optimizers[0].param_groups[0]["lr"], **values}
        if not math.isfinite(values["loss"]):
            raise Diverged(
                f"{self.stage}: the loss is {values['loss']} in epoch {row['epoch']}",
                f"lower {self.stage}.optimizer.lr or raise its warmup_epochs, and train again",
            )
        self.rows.append(row)
        write_text(self.folder / "history.csv", _csv(self.rows))
        if self.advance:
            self.advance(0, note=f"epoch {row['epoch']}/{self.epochs} loss {values['loss']:.3f}")
        if "collapse_std" in values and not self.warned:
            warning = verdict(values["collapse_std"], values["effective_rank"])
            if warning and row["epoch"] > 1:
                print(f"{self.stage}: warning: {warning}", file=sys.stderr)
                self.warned = True


class _SaveLast(Checkpoint):
    """Runs after the other callbacks: the trainer's state is that of an epoch's end.

    Tiny epochs would spend their time on the disk, so there are `seconds` between two checkpoints.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self.seconds = seconds
        self.saved = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if time.monotonic() - self.saved >= self.seconds:
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()


class _AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or absent, checked before they are read, and never unpickled."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        stream = io.BytesIO()  # torch.save hides a full disk's OSError behind an error of its own
        torch.save(checkpoint, stream)
        write_bytes(Path(path), stream.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint after its checksums were compared, without unpickling code.

    Raises:
        RunError: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # CRC-32 of every record
        if damaged is not None:
            raise ValueError(f"its record {damaged} has another checksum")
        return torch.load(path, map_location=map_location, weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, ValueError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise RunError(
            f"{path}: damaged checkpoint: {error}",
            f"delete it to train the stage {path.parent.name} again from its start",
        ) from error


def _steps_done(path: Path) -> int:
    return int(read_checkpoint(path, "cpu")["global_step"])


def _csv(rows: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _precision(hardware: Hardware) -> Any:
    if hardware.precision == "bf16":
        return "bf16-mixed"
    gpu = hardware.accelerator in {"auto", "gpu"} and torch.cuda.is_available()
    return (
        "bf16-mixed"
        if hardware.precision == "auto" and gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        else "32-true"
    )


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C and termination raise `Interrupted` at once; the last checkpoint is whole whenever they come."""

    def stop(number: int, frame: Any) -> None:
        raise Interrupted

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _quiet() -> None:
    """Lightning's banners and advice are for its own users; what matters is said by us."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
