"""The loop: Lightning trains the task of one stage, exactly resumable, with progress, logs and atomic checkpoints.

All randomness of a step comes from a seed of (recipe seed, stage, step), and the order of an epoch from (seed, epoch): a resumed
training needs no random state, can resume within an epoch, and on the CPU ends with the same bits as an uninterrupted one. For
Lightning, the whole training is one epoch of `epochs * steps` batches; epochs are counted here.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader

from edgekit.errors import EdgekitError, RunError, one_line, quoted
from edgekit.files import write_bytes, write_text
from edgekit.foreign import Unreadable, understood
from edgekit.models import weight_files
from edgekit.models.encoders import Encoder
from edgekit.progress import Advance, progress
from edgekit.recipe import Hardware, Optimizer, warmup_steps
from edgekit.spelling import KEYS
from edgekit.terminal import echo
from edgekit.train.loop.collapse import verdict
from edgekit.train.loop.devices import device_for, full_float32, uses_bf16
from edgekit.train.loop.distributed import broadcast, rank, synchronize_batchnorm, world_size
from edgekit.train.loop.loader import Ahead, Batches, seed_for
from edgekit.train.loop.memory import is_out_of_memory, keep_freed_memory, largest_that_fits
from edgekit.train.loop.optim import build_optimizer, warmup_cosine
from edgekit.train.loop.resumable import check_history, check_optimizer, check_progress, check_weights
from edgekit.train.loop.step import StepDraws
from edgekit.train.loop.timing import TimedTraining, timed_training

CHECKPOINT = "last.ckpt"
EARLIER_SECONDS = "earlier_seconds"
_ASK_EVERY = 20  # steps between two checks of the clock if several processes must agree on it

Observe = Callable[[], dict[str, float]]


class Diverged(EdgekitError):
    """The loss is no longer a number."""


class OutOfMemory(EdgekitError):
    """A batch does not fit into the device's memory."""


class TrainingInterrupted(BaseException):
    """Ctrl-C or a termination signal; unlike KeyboardInterrupt, Lightning lets it pass."""


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
    module = _Stage(task, optimizer, batches, total, seed_for(seed, stage, "steps"))
    checkpoint = folder / CHECKPOINT
    resume = checkpoint if checkpoint.exists() else None
    timing = timed_training(stage, total, epochs, batches.batch_size)
    last = timing.most if timing else total
    if timing:  # a few steps count as an epoch
        module.epoch_steps = min(total, timing.window)
    done, loops = _resumable(checkpoint, module) if resume else (0, {})
    history = _History(folder, stage, module.epoch_steps, epochs, hardware.checkpoint_seconds)
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
        plugins=[_AtomicCheckpoints(), TorchElasticEnvironment() if world_size() > 1 else LightningEnvironment()],
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        benchmark=on_gpu,
    )
    if resume:
        _check_progress(checkpoint, loops, trainer, done)
    if resume and rank() == 0:
        echo(f"{stage}: resumes from step {done} of {total} (epoch {done // batches.steps + 1})", err=True)
    with _signals(), full_float32(), _written(folder), _bar(stage, total, done, hidden=timing is not None) as advance:
        history.advance = advance
        try:
            with _restoring(checkpoint, history) if resume else nullcontext():
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


class _Stage(pl.LightningModule):
    """The task as Lightning's module: seeds, optimizer, and running sums of what is logged (on the device: no step waits for them)."""

    def __init__(self, task: nn.Module, optimizer: Optimizer, batches: Batches, total: int, seed: int) -> None:
        super().__init__()
        self.task = task
        self.optimizer = optimizer
        self.batches = batches
        self.total = total
        self.epoch_steps = batches.steps
        self.seed = seed
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def configure_optimizers(self) -> Any:
        constant: Iterable[nn.Parameter] = getattr(self.task, "constant_lr", tuple)()
        shares: dict[nn.Parameter, float] = getattr(self.task, "lr_shares", dict)()
        optimizer = build_optimizer(self.optimizer, self.task, self.batches.batch_size, constant, shares)
        warmup = warmup_steps(self.optimizer, self.batches.steps, self.total)

        def cosine(step: int) -> float:
            return warmup_cosine(step, self.total, warmup)

        factors = [(lambda step: 1.0) if group["constant_lr"] else cosine for group in optimizer.param_groups]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        step = self.global_step
        torch.manual_seed(seed_for(self.seed, step))  # dropout and the like
        own, shared = (torch.Generator().manual_seed(seed_for(self.seed, step, *who)) for who in ([rank()], []))
        outcome = self.task(batch, StepDraws(own, shared), monitor=(step + 1) % self.epoch_steps == 0)
        for name, value in {"loss": outcome["loss"], **outcome["logs"]}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double()
            self.counts[name] = self.counts.get(name, 0) + 1
        return outcome["loss"]

    def averages(self) -> dict[str, float]:
        """Means of what was logged since the last call, over all processes; waits for the device."""
        if not self.sums:
            return {}
        values = torch.stack([self.sums[name] / self.counts[name] for name in self.sums])
        if world_size() > 1:
            dist.all_reduce(values)
            values /= world_size()
        means = dict(zip(self.sums, values.tolist(), strict=True))
        self.sums, self.counts = {}, {}
        return means

    def healthy(self) -> bool:
        """Return whether the loss is finite; waits for the device."""
        return "loss" not in self.sums or bool(torch.isfinite(self.sums["loss"]))


class _History(Callback):
    """Records one row per epoch, stored in the checkpoint so that a resumed training has no missing or double rows; updates the progress
    and writes the checkpoint.

    Args:
        folder: the stage's.
        stage: its name.
        steps: number of steps per epoch.
        epochs: of the training.
        seconds: between two checkpoints: with one per tiny epoch, most time would be spent on the disk.
    """

    def __init__(self, folder: Path, stage: str, steps: int, epochs: int, seconds: float) -> None:
        self.folder = folder
        self.stage = stage
        self.steps = steps
        self.epochs = epochs
        self.seconds = seconds
        self.rows: list[dict[str, float]] = []
        self.earlier_seconds = 0.0
        self.began = self.saved = time.monotonic()
        self.advance: Advance | None = None
        self.timing: TimedTraining | None = None
        self.observe: Observe | None = None
        self.observe_every = 0
        self.warned = False
        self.began_training = False
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "seconds": self.earlier_seconds + time.monotonic() - self.began,
            "sums": {name: value.cpu() for name, value in self.sums.items()},
            "counts": self.counts,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self.earlier_seconds = state_dict["seconds"]
        self.sums, self.counts = state_dict["sums"], state_dict["counts"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.sums = {name: value.to(pl_module.device) for name, value in self.sums.items()}  # type: ignore[assignment]
        pl_module.counts = dict(self.counts)  # type: ignore[assignment]
        self.began_training = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        step = trainer.global_step
        if hasattr(pl_module.task, "after_step"):
            pl_module.task.after_step(step / pl_module.total)
        if self.advance:
            self.advance(1)
        if step % self.steps == 0:
            self._epoch(trainer, pl_module, step // self.steps)
        if self.timing:
            trainer.should_stop = self.timing.tick()
        elif step < pl_module.total and self._time_to_save(step):
            self._save(trainer, pl_module)

    def _epoch(self, trainer: pl.Trainer, module: _Stage, epoch: int) -> None:
        values = module.averages()
        row = {"epoch": epoch, "lr": trainer.optimizers[0].param_groups[0]["lr"], **values}
        if not math.isfinite(values["loss"]):
            self._diverged(values["loss"], epoch)
        if self.observe is not None and (epoch % self.observe_every == 0 or epoch == self.epochs):
            row |= self.observe()
        self.rows.append(row)
        if rank() > 0:
            return
        write_text(self.folder / "history.csv", _csv(self.rows))
        if trainer.logger is not None:
            trainer.logger.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=epoch * self.steps)
        if self.advance:
            self.advance(0, note=f"epoch {epoch}/{self.epochs} loss {values['loss']:.3f}")
        if "collapse_std" in values and not self.warned and epoch > 1:
            warning = verdict(values["collapse_std"], values["effective_rank"])
            if warning:
                echo(f"{self.stage}: warning: {warning}", err=True)
                self.warned = True

    def _time_to_save(self, step: int) -> bool:
        if world_size() == 1:
            return time.monotonic() - self.saved >= self.seconds
        return step % _ASK_EVERY == 0 and bool(broadcast(time.monotonic() - self.saved >= self.seconds))

    def _save(self, trainer: pl.Trainer, module: _Stage) -> None:
        """Write the checkpoint, unless the loss is not finite: then the last good one stays."""
        if not module.healthy():
            self._diverged(math.nan, trainer.global_step // self.steps + 1)
        self.sums, self.counts = module.sums, module.counts
        trainer.save_checkpoint(self.folder / CHECKPOINT)
        self.saved = time.monotonic()

    def _diverged(self, loss: float, epoch: int) -> None:
        raise Diverged(
            f"{self.stage}: the loss is {loss} in epoch {epoch}",
            f"lower {self.stage}.optimizer.lr or raise its warmup_epochs; then choose another --run, or delete {self.folder} "
            "(its checkpoint is older)",
        )


class _AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically, checks them before they are read, and never unpickles code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        stream = io.BytesIO()  # torch.save hides a full disk's OSError behind an error of its own
        torch.save(checkpoint, stream)
        write_bytes(Path(path), stream.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint after comparing its checksums, without unpickling code.

    Raises:
        RunError: it is damaged.
    """
    try:
        content = weight_files.read_checkpoint(path, map_location)
        with understood(path, "a checkpoint of edgekit's"):
            return _checked(_renamed(content))
    except Unreadable as error:
        reason = "it holds more than weights" if isinstance(error, weight_files.NotWeights) else error.reason
        raise RunError(
            f"{path}: damaged checkpoint: {reason}",
            f"delete it to train the stage {path.parent.name} again from its start",
        ) from error


def _renamed(content: Any) -> Any:
    """Return a checkpoint whose tensors have today's names."""
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        return content
    names = {name: ".".join(KEYS.get(part, part) for part in str(name).split(".")) for name in state}
    return {**content, "state_dict": {names[name]: value for name, value in state.items()}}


# What Lightning resumes from.
_KEPT = {
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "epoch": int,
}


def _checked(content: Any) -> dict[str, Any]:
    """Check the content of a checkpoint; `resumable` checks whether it belongs to this training."""
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    for name, kind in _KEPT.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"it holds no {name}")
    step = content.get("global_step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError(f"its global_step is {quoted(step)}")
    return content


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(
        f"{path}: damaged checkpoint: {reason}", f"delete it to train the stage {path.parent.name} again from its start"
    )


def _resumable(path: Path, module: _Stage) -> tuple[int, dict[str, Any]]:
    """Check whether this training can resume from a checkpoint; return its number of steps and Lightning's progress.

    Raises:
        RunError: it is damaged, or from another training.
    """
    content = read_checkpoint(path, "cpu")
    done, fresh = int(content["global_step"]), module.configure_optimizers()
    try:
        if done > module.total:
            raise ValueError(f"its global_step is {done} of {module.total}")
        check_weights(content["state_dict"], module.state_dict())
        check_optimizer(content, fresh["optimizer"], fresh["lr_scheduler"]["scheduler"])
        check_history(content["callbacks"].get(_History.__name__), done, module.epoch_steps)
        loops = content["loops"].get("fit_loop")
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    return done, loops


def _check_progress(path: Path, loops: Any, trainer: pl.Trainer, done: int) -> None:
    try:
        check_progress(loops, trainer.fit_loop.state_dict(), done)
    except ValueError as error:
        raise _damaged(path, str(error)) from error


@contextmanager
def _restoring(path: Path, history: _History) -> Iterator[None]:
    """Report an error before the first step of a resumed training as a damaged checkpoint."""
    try:
        yield
    except (EdgekitError, OSError):  # an OSError is about files that cannot be written
        raise
    except Exception as error:
        if history.began_training or is_out_of_memory(error):
            raise
        raise _damaged(path, one_line(str(error), 200) or type(error).__name__) from error


def _csv(rows: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


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


@contextmanager
def _signals() -> Iterator[None]:
    """Raise `TrainingInterrupted` on Ctrl-C and termination; the last checkpoint is complete at any time."""

    def stop(number: int, frame: Any) -> None:
        raise TrainingInterrupted

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
    """Silence the banners and advice of Lightning; edgekit reports what matters."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
