"""Train the stages of a run, in order: a complete stage with unchanged inputs is skipped, an interrupted one is resumed.

    data -> pretrain -> finetune -> distill
                \\-> (label budget) -> supervised

    of task anomaly:  data -> pretrain -> anomaly

`edgekit.train.records.inputs` defines the inputs of a stage, `edgekit.train.records.folders` manages its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgekit.data.images import ImageSet
from edgekit.data.splits import Splits, load_splits, set_sizes, write_splits
from edgekit.errors import DataError, RecipeError
from edgekit.files import write_text
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import Encoder, build_encoder
from edgekit.models.store import load_classifier, load_pretrained, save_classifier, save_pretrained
from edgekit.progress import say
from edgekit.recipe import Architecture, Recipe, Supervised, dump, epochs_of, settled
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.run import Run, StageRecord
from edgekit.stages import STAGES
from edgekit.tasks import ANOMALY
from edgekit.temporary import scratch_folder
from edgekit.terminal import echo
from edgekit.text import counted, plural
from edgekit.train.distill.distillation import DistillTask, with_labels
from edgekit.train.distill.teachers import check_order, load_teachers
from edgekit.train.evaluate import bank_of, device_of, encoder_knn, encoder_scores, labels_of, quality_on
from edgekit.train.evaluate.online import monitor_every, online
from edgekit.train.loop.distributed import barrier, broadcast, rank, world_size
from edgekit.train.loop.launch import joined
from edgekit.train.loop.loader import seed_for
from edgekit.train.loop.resumable import CHECKPOINT
from edgekit.train.loop.streaming import shuffled
from edgekit.train.objective import objective_of
from edgekit.train.pretrain import METHODS, build_method
from edgekit.train.pretrain.teacher import load_encoder_teacher
from edgekit.train.records.folders import Make, complete, only_one
from edgekit.train.records.inputs import stage_inputs
from edgekit.train.records.unfinished import check_unfinished
from edgekit.train.stages.detection import Detection, check_detection
from edgekit.train.stages.probed_teacher import ProbedTeacher
from edgekit.train.stages.scratch import search
from edgekit.train.stages.teacher import Finetuning
from edgekit.train.stages.teaching import Teaching
from edgekit.train.stages.training_tasks import ClassifyTask, PretrainTask
from edgekit.train.stages.views import augment_for, augmentation_of, check_tiles, draw_views

if TYPE_CHECKING:
    from edgekit.train.loop.history import Observe

StageFiles = tuple[list[str], dict[str, Any]]  # names of the files of a stage, and its metrics
WITHOUT_LABELS = ("data", "pretrain")


@dataclass(frozen=True)
class Report:
    """The outcome of a stage.

    Args:
        stage: its name.
        outcome: done, skipped (it was complete and up to date) or copied (from another run).
        record: of the complete stage.
        current: whether the accuracies in the record were measured on this recipe's test and probe sets.
    """

    stage: str
    outcome: str
    record: StageRecord
    current: bool


def train(
    recipe: Recipe,
    run: Run,
    *,
    reuse: Sequence[Run] = (),
    splits: Splits | None = None,
    until: str = STAGES[-1],
    on_stage: Callable[[Report], None] = lambda report: None,
    on_start: Callable[[Splits], None] = lambda splits: None,
) -> None:
    """Train every stage of a recipe that is not complete in the run.

    Args:
        recipe: what to train.
        run: the folder; created if missing.
        reuse: other runs, whose complete stages are copied if their inputs are the same.
        splits: the recipe's images, if the caller has loaded them.
        until: the last stage to train, one of `edgekit.stages.STAGES`.
        on_stage: called after each stage.
        on_start: called with the images once all checks have passed, before the first stage; in the first process only.

    Raises:
        EdgekitError: of many kinds; whatever was complete before stays complete.
    """
    with joined(recipe.hardware), only_one(run) if rank() == 0 else nullcontext():
        splits = splits or _load(recipe, run)
        check(recipe, splits, run)
        images = set_sizes(splits)
        wanted = wanted_stages(recipe, splits, until)
        again = check_unfinished(run, wanted, lambda stage: stage_inputs(stage, recipe, splits, run), images)
        if rank() == 0:
            if again:
                what = next(iter(again.values()))
                say(
                    f"note: {run.path}: {what}: made again: {', '.join(again)} (to keep them, choose another run folder)"
                )
            on_start(splits)
            write_text(run.recipe_path, dump(recipe))
        stages = Stages(recipe, run, splits)
        for stage in wanted:
            if rank() > 0:
                _follow(run, stage, getattr(stages, stage))
                continue
            inputs = stage_inputs(stage, recipe, splits, run)
            outcome, record = complete(run, stage, inputs, _leading(getattr(stages, stage)), reuse, images)
            broadcast(False)
            current = record.metrics.get("measured_on", stages.measured_on) == stages.measured_on
            on_stage(Report(stage, outcome, record, current))


def wanted_stages(recipe: Recipe, splits: Splits, until: str = STAGES[-1]) -> list[str]:
    """Return the stages of a recipe until one; a classification without labels has only those that need none."""
    wanted = [stage for stage in recipe.stages if stage in STAGES[: STAGES.index(until) + 1]]
    labels = len(splits.labeled) or recipe.task == ANOMALY  # which needs none
    return [stage for stage in wanted if labels or stage in WITHOUT_LABELS]


def _load(recipe: Recipe, run: Run) -> Splits:
    """Load the images: the first process decodes them into the cache, the others read the cache."""
    splits = load_splits(recipe.data, run) if rank() == 0 else None
    barrier()
    return splits if splits is not None else load_splits(recipe.data, run)


def _leading(make: Make) -> Make:
    """Return a function that trains a stage, and makes the other processes train it, too."""

    def leading(folder: Path) -> StageFiles:
        broadcast(True)
        return make(folder)

    return leading


def _follow(run: Run, stage: str, make: Make) -> None:
    """Train a stage together with the first process if it does; the files of this process are discarded."""
    if not broadcast(None):
        return
    with scratch_folder("follow") as folder:
        checkpoint = run.stage_path(stage) / CHECKPOINT
        if checkpoint.exists():
            (folder / CHECKPOINT).symlink_to(checkpoint.resolve())
        make(folder)
    broadcast(None)


class Stages:
    """Trains the stages; one method per stage, which writes into a folder and returns its files and metrics.

    Args:
        recipe: what to train.
        run: its earlier stages are read.
        splits: the images.
    """

    def __init__(self, recipe: Recipe, run: Run, splits: Splits) -> None:
        self.recipe = settled(recipe, len(splits.pool), len(splits.labeled))
        self.run = run
        self.splits = splits
        self.size = recipe.data.image_size
        self.normalization = recipe.data.mean, recipe.data.std
        self.device = device_of(recipe)
        self.objective = objective_of(recipe)
        self.measured_on = {"test": splits.test.digest, "bank": bank_of(splits, recipe).digest}

    def data(self, folder: Path) -> StageFiles:
        """Record the splits."""
        # The held-out and the test images of a detector have no part in its stages: evaluation and export read them.
        sizes = {"normal": len(self.splits.pool)} if self.recipe.task == ANOMALY else set_sizes(self.splits)
        metrics = {"images": sizes, "skipped": len(self.splits.skipped), "notes": self.splits.notes}
        return write_splits(self.splits, folder), metrics

    def pretrain(self, folder: Path) -> StageFiles:
        """Train encoder and projection head on the pool, without labels."""
        config, splits = self.recipe.pretrain, self.splits
        teaching = (
            Teaching(config, self.recipe, splits, self.run, self.device) if isinstance(config, DistillConfig) else None
        )
        torch.manual_seed(seed_for(self.recipe.seed, "pretrain", "weights"))
        width = teaching.teacher.width if teaching is not None else None
        method = build_method(config, self.size, len(splits.pool), self.normalization, width)
        start = _start("pretrain", method.model.encoder)
        augment = augmentation_of(self.recipe, "pretrain")
        draw_views(splits.pool, augment, self.recipe.seed, folder / "views.png")
        before = self._knn(method.model.encoder)
        observe = online(method.model.encoder, splits, self.recipe)
        task = PretrainTask(method, augment) if teaching is None else teaching.task(method)
        taught = {} if teaching is None else teaching.scores()
        last = self._fit(task, "pretrain", splits.pool, folder, observe)
        files = save_pretrained(folder, method.model)
        knn: dict[str, Any] = {}
        if before is not None:
            scores = encoder_scores(
                method.model.encoder, splits, self.recipe, self.device, linear_too=teaching is not None, title="kNN"
            )
            knn = {**scores, "knn_starting_weights" if start else "knn_random_weights": before}
        metrics = {**last, **knn, **start, **taught, "measured_on": self.measured_on}
        return [*files, "history.csv", "views.png"], metrics

    def finetune(self, folder: Path) -> StageFiles:
        """Train the teacher on the label budget, from the linear probe on the encoder."""
        pretrained = load_pretrained(self.run.stage_path("pretrain"), self.run.require("pretrain").outputs)
        torch.manual_seed(seed_for(self.recipe.seed, "finetune", "weights"))
        tuning = Finetuning(self.recipe, self.splits, pretrained, self.device)
        last = self._fit(tuning.task, "finetune", self.splits.labeled, folder)
        model, choice = tuning.chosen()
        for line in tuning.remarks(choice) if rank() == 0 else []:
            echo(f"finetune: {line}", err=True)
        files = save_classifier(folder, model)
        metrics = {**last, **self._tested(choice["test"][choice["left"]]), "choice": choice}
        if (consistency := tuning.consistency()) is not None:
            metrics["consistency"] = consistency
        return [*files, "history.csv"], metrics

    def distill(self, folder: Path) -> StageFiles:
        """Train the student on the predictions of the teachers."""
        config, labeled = self.recipe.distill, self.splits.labeled
        teachers = load_teachers(config.teachers, self.run, self.recipe.data, self.splits.classes)
        taught = [teacher.loaded for teacher in teachers if teacher.loaded is not None]
        if rank() == 0:
            for loaded in taught:
                echo(f"distill: weights of a teacher: {loaded}", err=True)
        student, start = self._started_student()
        augment = augment_for(config.augmentation, self.recipe.data)
        images = labeled if config.images == "labeled" else self.splits.pool
        if config.images == "both":
            images = with_labels(images, labeled)
        probed = None
        if config.learns_from_pretraining:
            probed = ProbedTeacher(self.recipe, self.splits, images, self.run, self.device)
        task = DistillTask(student, teachers, augment, config, labeled, self.objective, probed)
        files, metrics = self._classifier("distill", task, task.result, images, folder)
        teachers_from = {"teachers_from": [asdict(loaded) for loaded in taught]} if taught else {}
        return files, metrics | start | teachers_from

    def _started_student(self) -> tuple[Classifier, dict[str, Any]]:
        """Return the student of the distillation, and for the record what it starts from."""
        if not self.recipe.student_starts_as_encoder:
            student = self._student("distill", self.recipe.distill.student)
            return student, _start("distill", student.encoder)
        torch.manual_seed(seed_for(self.recipe.seed, "distill", "weights"))
        pretrained = load_pretrained(self.run.stage_path("pretrain"), self.run.require("pretrain").outputs)
        student = Classifier(pretrained.architecture, self.size, self.splits.classes, pretrained.encoder)
        self.objective.prepare(student.head, labels_of(self.splits.labeled))
        if rank() == 0:
            echo("distill: starts from the pretrained encoder, which is the same network", err=True)
        return student, {"started_from": {"stage": "pretrain"}}

    def supervised(self, folder: Path) -> StageFiles:
        """Train the baseline: the student's architecture, from scratch, on the label budget."""
        config, splits = self.recipe.supervised, self.splits
        if not config.search or not len(splits.probe):
            model, last = self._from_scratch(config, folder)
            return self._scored(model, last, folder)
        seen = epochs_of(self.recipe.pretrain) * len(splits.pool)

        def train_one(config: Supervised, folder: Path) -> tuple[Classifier, dict[str, Any], float]:
            model, last = self._from_scratch(config, folder)
            return model, last, quality_on(model, splits.probe, self.recipe, self.device)

        files, metrics = search(config, epochs_of(config), len(splits.labeled), seen, train_one, folder)
        accuracy = quality_on(load_classifier(folder), splits.test, self.recipe, self.device)
        return files, {**metrics, **self._tested(accuracy)}

    def _from_scratch(self, config: Supervised, folder: Path) -> tuple[Classifier, dict[str, Any]]:
        model = self._student("supervised", self.recipe.distill.student.model_copy(update={"weights": None}))
        augment = augment_for(config.augmentation, self.recipe.data)
        task = ClassifyTask(model, augment, config.label_smoothing, self.objective)
        return model, self._fit(task, "supervised", self.splits.labeled, folder, config=config)

    def anomaly(self, folder: Path) -> StageFiles:
        """Build the anomaly detector from the normal images."""
        assert self.splits.anomaly is not None  # the stage is of task anomaly alone
        files, metrics = Detection(self.recipe, self.run, self.splits.anomaly.normal, self.device).build(folder)
        return files, {**metrics, "measured_on": self.measured_on}

    def _knn(self, encoder: Encoder) -> float | None:
        """Return the kNN accuracy of an encoder; None without labels."""
        if not len(self.splits.labeled):
            return None
        return encoder_knn(encoder, self.splits, self.recipe, self.device)

    def _student(self, stage: str, architecture: Architecture) -> Classifier:
        torch.manual_seed(seed_for(self.recipe.seed, stage, "weights"))
        classes, normalization = self.splits.classes, self.normalization
        student = Classifier.build(architecture, self.size, classes, [], "distill.student", normalization)
        self.objective.prepare(student.head, labels_of(self.splits.labeled))
        return student

    def _classifier(
        self, stage: str, task: ClassifyTask | DistillTask, model: Classifier, images: ImageSet, folder: Path
    ) -> StageFiles:
        return self._scored(model, self._fit(task, stage, images, folder), folder)

    def _scored(self, model: Classifier, last: dict[str, Any], folder: Path) -> StageFiles:
        files = save_classifier(folder, model)
        accuracy = quality_on(model, self.splits.test, self.recipe, self.device)
        return [*files, "history.csv"], {**last, **self._tested(accuracy)}

    def _tested(self, value: float) -> dict[str, Any]:
        """Return the metric that counts on the test set, for a stage's record; `metric` names it where it is not top-1."""
        metric = self.objective.metric
        named = {} if self.objective.one_class else {"metric": metric}
        return {f"test_{metric}": value, **named, "measured_on": self.measured_on}

    def _fit(
        self,
        task: torch.nn.Module,
        stage: str,
        images: ImageSet,
        folder: Path,
        observe: Observe | None = None,
        config: Supervised | None = None,
    ) -> dict[str, Any]:
        """Train a task with the stage's part of the recipe, or with `config`.

        A label budget smaller than the batch is one batch, and no epoch leaves out any of its images.
        """
        from edgekit.train.loop.engine import fit  # seconds: where nothing is left to train, nobody waits for Lightning

        config, seed = config or getattr(self.recipe, stage), self.recipe.seed
        epochs = epochs_of(config)
        batch_size = min(config.batch_size, len(images))
        batch_size -= batch_size % world_size()
        batches = shuffled(images, batch_size, seed_for(seed, stage, "order"), stage != "pretrain")
        last = fit(
            task, batches, folder, stage=stage, epochs=epochs, optimizer=config.optimizer, seed=seed,
            hardware=self.recipe.hardware, observe=observe, observe_every=monitor_every(self.recipe.monitor, epochs),
        )  # fmt: skip
        return {**last, "steps": epochs * batches.steps}


def _start(stage: str, encoder: Encoder) -> dict[str, Any]:
    """Return (for the record) and print the file of weights that the encoder started from, if there is one."""
    if encoder.loaded is None:
        return {}
    if rank() == 0:
        echo(f"{stage}: starts from {encoder.loaded}", err=True)
    return {"started_from": asdict(encoder.loaded)}


def check(recipe: Recipe, splits: Splits, run: Run) -> None:
    """Refuse early what would fail only after hours.

    Raises:
        RecipeError: a network is unknown or does not fit the images, a file of weights does not fit the network, a teacher has other
            classes, or the accelerator is missing.
        DataError: a batch is larger than the pool.
    """
    wanted = recipe.hardware.accelerator
    if (wanted == "gpu" and not torch.cuda.is_available()) or (
        wanted == "mps" and not torch.backends.mps.is_available()
    ):
        raise RecipeError(f"hardware.accelerator: PyTorch finds no {wanted} on this machine", "set it to auto or cpu")
    if recipe.pretrain.one_branch is not None and METHODS[recipe.pretrain.method].views < 2:
        raise RecipeError(
            f"pretrain.one_branch: {recipe.pretrain.method} uses one view per image, so there is no second branch",
            "choose a method with two views, for instance simclr",
        )
    trained = wanted_stages(recipe, splits)
    for stage in (stage for stage in ("pretrain", "distill") if stage in trained):
        batch = getattr(recipe, stage).batch_size
        if batch > len(splits.pool) and not (stage == "distill" and recipe.distill.images == "labeled"):
            images = f"{len(splits.pool)} {plural(len(splits.pool), 'image')}"
            enough = len(splits.pool) > 1  # BatchNorm and the losses compare images of a batch
            raise DataError(
                f"{stage}.batch_size is {batch}, but the pool has {images}",
                f"set it to at most {len(splits.pool)}" if enough else "add images: training takes two or more",
            )
        if batch % world_size():
            raise RecipeError(
                f"{stage}.batch_size is {batch}, which is not a multiple of the {world_size()} devices",
                f"set it to a multiple of {world_size()}",
            )
    normalization = recipe.data.mean, recipe.data.std
    if recipe.task == ANOMALY:
        check_detection(recipe, len(splits.pool))
    if "pretrain" not in trained:
        return
    encoder = build_encoder(recipe.pretrain.encoder, recipe.data.image_size, "pretrain.encoder", normalization)
    check_tiles(recipe, encoder)
    build_encoder(recipe.distill.student, recipe.data.image_size, "distill.student", normalization)
    if isinstance(recipe.pretrain, DistillConfig):
        load_encoder_teacher(recipe.pretrain.teacher, recipe.data, run)
    if not len(splits.labeled):
        return
    if len(splits.labeled) < 2 * world_size():  # BatchNorm needs two images per process
        raise DataError(
            f"data.labels: a budget of {counted(len(splits.labeled), 'image')} is too small for {world_size()} devices",
            "use more labels, or train on fewer devices",
        )
    teachers = load_teachers(recipe.distill.teachers, run, recipe.data, splits.classes, own=False)
    check_order(recipe.distill.teachers, teachers, recipe.data, splits.labeled, splits.classes)
    if recipe.distill.loss == "feature":
        for teacher in teachers:
            _ = teacher.embedding_dim
