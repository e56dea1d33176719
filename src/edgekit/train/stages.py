"""A run's stages, in order: each is skipped when it is complete and its inputs have not changed, resumed when it was interrupted.

    data -> pretrain -> finetune -> distill
                \\-> (label budget) -> supervised

`inputs` of a stage is everything that its outputs depend on: its part of the recipe, the digests of the images, and the
digests of the weights that it starts from. It is written beside the checkpoint before training and into `stage.json` after.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from edgekit.data.augment import Augment
from edgekit.data.splits import Splits, load_splits, write_splits
from edgekit.errors import DataError, RunError
from edgekit.files import digest_of, write_json, write_text
from edgekit.machine import installed_packages
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import build_encoder
from edgekit.models.store import load_classifier, load_pretrained, save_classifier, save_pretrained
from edgekit.recipe import Augmentation, Recipe, dump
from edgekit.result import now
from edgekit.run import STAGES, Run, StageRecord
from edgekit.train.engine import CHECKPOINT, fit
from edgekit.train.evaluate import encoder_knn, top1
from edgekit.train.loader import seed_for
from edgekit.train.pretrain import METHODS
from edgekit.train.tasks import ClassifyTask, DistillTask, PretrainTask, Teacher
from edgekit.train.views import draw_views

# Raise it when a change makes the same recipe train other weights, so that old stages are not taken for new ones.
_TRAINING_VERSION = 2
_STARTED = "started.json"


@dataclass(frozen=True)
class Report:
    """What became of a stage: `done` or `skipped`, and its record."""

    stage: str
    outcome: str
    record: StageRecord


def train(
    recipe: Recipe,
    run: Run,
    *,
    reuse: Run | None = None,
    until: str = STAGES[-1],
    on_stage: Callable[[Report], None] = lambda report: None,
) -> None:
    """Train every stage of a recipe that the run does not have yet.

    Args:
        recipe: what to train.
        run: the folder; made if it is not there.
        reuse: another run whose complete stages are copied where their inputs are the same.
        until: the last stage to train, one of `edgekit.run.STAGES`.
        on_stage: called after each stage.

    Raises:
        EdgekitError: of many kinds; whatever was complete before stays complete.
    """
    with _only_one(run):
        splits = load_splits(recipe.data)
        _check(recipe, splits)
        write_text(run.recipe_path, dump(recipe))
        Stages(recipe, run, splits, reuse, on_stage).all(until)


class Stages:
    """The stages of one run.

    Args:
        recipe: what to train.
        run: where to.
        splits: the images.
        reuse: another run to copy complete stages from.
        on_stage: called after each stage.
    """

    def __init__(
        self, recipe: Recipe, run: Run, splits: Splits, reuse: Run | None, on_stage: Callable[[Report], None]
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.splits = splits
        self.reuse = reuse
        self.on_stage = on_stage
        self.size = recipe.data.image_size
        self.device = _device(recipe)

    def all(self, until: str) -> None:
        """Every stage, in order, up to and with `until`."""
        for stage in STAGES[: STAGES.index(until) + 1]:
            if stage != "supervised" or self.recipe.supervised.enabled:
                getattr(self, stage)()

    def data(self) -> None:
        """Write down who saw which image."""
        sets = {name: getattr(self.splits, name).digest for name in ("pool", "labelled", "probe", "test")}
        inputs = {"data": _json(self.recipe.data), "digests": sets, "classes": self.splits.classes}

        def make(folder: Path) -> tuple[list[str], dict[str, Any]]:
            counts = {name: len(getattr(self.splits, name)) for name in sets}
            return write_splits(self.splits, folder), {
                "images": counts,
                "skipped": len(self.splits.skipped),
                "notes": self.splits.notes,
            }

        self._stage("data", inputs, make)

    def pretrain(self) -> None:
        """Train encoder and projection head on the pool, without labels."""
        config = self.recipe.pretrain

        def make(folder: Path) -> tuple[list[str], dict[str, Any]]:
            torch.manual_seed(seed_for(self.recipe.seed, "pretrain", "weights"))
            method = METHODS[config.method](config, self.size)
            augment = self._augment(config.augmentation)
            draw_views(self.splits.pool, augment, self.recipe.seed, folder / "views.png")
            random_knn = encoder_knn(method.model.encoder, self.splits, self.recipe, self.device)
            last = self._fit(PretrainTask(method, augment), "pretrain", self.splits.pool, folder, config.batch_size)
            files = save_pretrained(folder, method.model)
            knn = encoder_knn(method.model.encoder, self.splits, self.recipe, self.device)
            return [*files, "history.csv", "views.png"], {**last, "knn": knn, "knn_random_weights": random_knn}

        self._stage("pretrain", {"config": _json(config), "pool": self.splits.pool.digest, **self._common()}, make)

    def finetune(self) -> None:
        """Train the teacher on the label budget, from the middle of the projection head."""
        config = self.recipe.finetune

        def make(folder: Path) -> tuple[list[str], dict[str, Any]]:
            pretrained = load_pretrained(self.run.stage_path("pretrain"))
            torch.manual_seed(seed_for(self.recipe.seed, "finetune", "weights"))
            kept = pretrained.head.keep(config.keep_projection_layers)
            model = Classifier(pretrained.architecture, self.size, self.splits.classes, pretrained.encoder, kept)
            task = ClassifyTask(model, self._augment(config.augmentation), config.label_smoothing)
            return self._classifier("finetune", task, model, self.splits.labelled, folder, config.batch_size)

        self._stage(
            "finetune",
            {"config": _json(config), "from": self._weights("pretrain"), **self._labelled(), **self._common()},
            make,
        )

    def distill(self) -> None:
        """Train the student on the pool to answer as the teacher does."""
        config = self.recipe.distill

        def make(folder: Path) -> tuple[list[str], dict[str, Any]]:
            model = self._student("distill")
            teacher = Teacher(load_classifier(self.run.stage_path("finetune")).to(memory_format=torch.channels_last))
            augment = self._augment(config.augmentation)
            task = DistillTask(
                model, teacher, augment, config.temperature, self.splits.labelled, config.labelled_weight
            )
            return self._classifier("distill", task, model, self.splits.pool, folder, config.batch_size)

        images = {"pool": self.splits.pool.digest} | (
            self._labelled() if config.labelled_weight else {"classes": self.splits.classes}
        )
        self._stage(
            "distill", {"config": _json(config), "from": self._weights("finetune"), **images, **self._common()}, make
        )

    def supervised(self) -> None:
        """Train the student's architecture from scratch on the label budget: what the unlabelled images must beat."""
        config = self.recipe.supervised

        def make(folder: Path) -> tuple[list[str], dict[str, Any]]:
            model = self._student("supervised")
            task = ClassifyTask(model, self._augment(config.augmentation), config.label_smoothing)
            return self._classifier("supervised", task, model, self.splits.labelled, folder, config.batch_size)

        student = _json(self.recipe.distill.student)
        self._stage(
            "supervised", {"config": _json(config), "student": student, **self._labelled(), **self._common()}, make
        )

    def _student(self, stage: str) -> Classifier:
        torch.manual_seed(seed_for(self.recipe.seed, stage, "weights"))
        return Classifier.build(self.recipe.distill.student, self.size, self.splits.classes, [], "distill.student")

    def _classifier(
        self,
        stage: str,
        task: ClassifyTask | DistillTask,
        model: Classifier,
        images: Any,
        folder: Path,
        batch_size: int,
    ) -> tuple[list[str], dict[str, Any]]:
        last = self._fit(task, stage, images, folder, min(batch_size, len(images)))
        files = save_classifier(folder, model)
        return [*files, "history.csv"], {**last, "test_top1": top1(model, self.splits.test, self.recipe, self.device)}

    def _fit(self, task: Any, stage: str, images: Any, folder: Path, batch_size: int) -> dict[str, float]:
        config = getattr(self.recipe, stage)
        return fit(
            task.to(memory_format=torch.channels_last), images, folder, stage=stage, epochs=config.epochs, batch_size=batch_size,
            optimizer=config.optimizer, seed=self.recipe.seed, hardware=self.recipe.hardware,
        )  # fmt: skip

    def _augment(self, config: Augmentation) -> Augment:
        return Augment(config, self.size, self.recipe.data.mean, self.recipe.data.std)

    def _common(self) -> dict[str, Any]:
        data = self.recipe.data
        pixels = {"preprocessing": _json(data.preprocessing()), "mean": data.mean, "std": data.std}
        return {"seed": self.recipe.seed, "pixels": pixels, "training_version": _TRAINING_VERSION}

    def _labelled(self) -> dict[str, Any]:
        return {"labelled": self.splits.labelled.digest, "classes": self.splits.classes}

    def _weights(self, stage: str) -> str:
        return self.run.require(stage).outputs["model.safetensors"]

    def _stage(
        self, stage: str, inputs: dict[str, Any], make: Callable[[Path], tuple[list[str], dict[str, Any]]]
    ) -> None:
        """Skip, copy, resume or train a stage."""
        folder, digest = self.run.stage_path(stage), digest_of(inputs)
        record = self.run.record(stage)
        if record is not None and record.digest == digest:
            self.run.check_outputs(record)
            self.on_stage(Report(stage, "skipped", record))
            return
        if self.reuse is not None and (copied := _copy_stage(self.reuse, self.run, stage, digest)) is not None:
            self.on_stage(Report(stage, "copied", copied))
            return
        if record is not None:
            _set_aside(folder)
        elif _started_digest(folder) != digest:
            shutil.rmtree(folder, ignore_errors=True)  # of an interrupted training with other inputs
        write_json(folder / _STARTED, {"digest": digest, "inputs": inputs})
        began = time.monotonic()
        outputs, metrics = make(folder)
        record = self.run.write_record(
            stage,
            inputs,
            outputs,
            metrics,
            seconds=time.monotonic() - began,
            created=now(),
            packages=installed_packages(),
        )
        for left in (_STARTED, CHECKPOINT):
            (folder / left).unlink(missing_ok=True)
        self.on_stage(Report(stage, "done", record))


def _check(recipe: Recipe, splits: Splits) -> None:
    """Refuse now what would fail hours later.

    Raises:
        RecipeError: a network is unknown or does not fit the images.
        DataError: a batch is larger than the pool.
    """
    for stage in ("pretrain", "distill"):
        batch = getattr(recipe, stage).batch_size
        if batch > len(splits.pool):
            raise DataError(
                f"{stage}.batch_size is {batch}, but the pool has {len(splits.pool)} images",
                f"set it to at most {len(splits.pool)}",
            )
    build_encoder(recipe.pretrain.encoder, recipe.data.image_size, "pretrain.encoder")
    build_encoder(recipe.distill.student, recipe.data.image_size, "distill.student")


def _device(recipe: Recipe) -> torch.device:
    gpu = recipe.hardware.accelerator in {"auto", "gpu"} and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def _json(part: BaseModel) -> dict[str, Any]:
    return part.model_dump(mode="json")


def _started_digest(folder: Path) -> str | None:
    try:
        return json.loads((folder / _STARTED).read_bytes())["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _set_aside(folder: Path) -> None:
    """Keep one older generation of a stage whose inputs have changed: training may have taken hours."""
    old = folder.parent / ".previous" / folder.name
    shutil.rmtree(old, ignore_errors=True)
    old.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(old)


def _copy_stage(source: Run, target: Run, stage: str, digest: str) -> StageRecord | None:
    """Copy a complete stage of another run if it was made from the same inputs; the record goes last."""
    record = source.record(stage)
    if record is None or record.digest != digest:
        return None
    source.check_outputs(record)
    folder = target.stage_path(stage)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in record.outputs:
        shutil.copyfile(source.stage_path(stage) / name, folder / name)
    write_json(folder / "stage.json", record.model_dump(mode="json"))
    return record


@contextmanager
def _only_one(run: Run) -> Iterator[None]:
    """Hold the run's lock, which the system releases when the process ends in any way.

    Raises:
        RunError: the folder cannot be made or written, or another process trains into it.
    """
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock = open(run.path / ".lock", "w")  # noqa: SIM115 - held until the run ends
    except OSError as error:
        raise RunError(
            f"{run.path}: cannot be written: {error.strerror}", "choose another folder with --run"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"{run.path}: another process is training into this run", "wait for it, or choose another --run"
            ) from error
        yield


__all__ = ["STAGES", "Report", "train"]
