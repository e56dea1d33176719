"""What a training records as it goes: a row for each epoch, its progress, and the checkpoints."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from edgekit.files import write_text
from edgekit.progress import Advance
from edgekit.terminal import echo
from edgekit.train.loop.collapse import verdict
from edgekit.train.loop.distributed import broadcast, rank, world_size
from edgekit.train.loop.failures import Diverged
from edgekit.train.loop.module import StageModule
from edgekit.train.loop.resumable import CHECKPOINT, HISTORY
from edgekit.train.loop.timing import TimedTraining

Observe = Callable[[], dict[str, float]]
_ASK_EVERY = 20  # steps between two checks of the clock if several processes must agree on it


class History(Callback):
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

    @property
    def state_key(self) -> str:
        return HISTORY

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

    def _epoch(self, trainer: pl.Trainer, module: StageModule, epoch: int) -> None:
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

    def _save(self, trainer: pl.Trainer, module: StageModule) -> None:
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


def _csv(rows: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
