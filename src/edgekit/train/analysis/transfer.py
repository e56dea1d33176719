"""Transfer of an encoder to other labeled data sets: linear evaluation and fine-tuning, as in table 8 and appendix B.8 of SimCLR.

Each data set has a folder in RUN/transfer/. Each part of it is a stage: an interrupted part is resumed, a complete one is not
measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from edgekit.data.images import ImageSet
from edgekit.data.labels import draw, share, shuffled
from edgekit.data.layout import inspect_folder
from edgekit.data.splits import Splits, load_splits
from edgekit.errors import DataError, RunError
from edgekit.files import digest_of
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import Encoder, build_encoder
from edgekit.models.store import FILES, Pretrained, load_pretrained, save_classifier
from edgekit.progress import progress
from edgekit.recipe import DataConfig, Finetune, Recipe, settled_stage
from edgekit.result import Score, Transfer, TransferSet
from edgekit.run import Run
from edgekit.train.evaluate import LAST, apply, device_of, labels_of, linear_probe, per_class
from edgekit.train.evaluate import share as accuracy
from edgekit.train.loop.loader import seed_for
from edgekit.train.loop.streaming import shuffled as batches_of
from edgekit.train.records.folders import complete, only_one
from edgekit.train.records.inputs import settled_content
from edgekit.train.stages.training_tasks import ClassifyTask
from edgekit.train.stages.views import augment_for

_VALIDATION = 0.2
_STRENGTHS = tuple(10.0**power for power in range(-4, 3))  # scikit-learn's C; the paper tries 45 values
_VERSION = 1  # increase it when a change gives other scores for the same inputs


class TransferScores(BaseModel):
    """The scores of a model on the test images of a set, as its stage records them."""

    test_top1: float = Field(ge=0, le=1)
    per_class: dict[str, float]
    c: float | None = Field(None, description="of the logistic regression, chosen by validation")

    @classmethod
    def of(cls, predicted: Tensor, truth: Tensor, classes: list[str], c: float | None = None) -> TransferScores:
        """Of predicted and true classes, int64 (n)."""
        return cls(test_top1=accuracy(predicted, truth), per_class=per_class(predicted, truth, classes), c=c)

    @classmethod
    def read(cls, metrics: object, folder: Path) -> TransferScores:
        """From a stage's record.

        Raises:
            RunError: the record is not what such a stage writes.
        """
        try:
            return cls.model_validate(metrics)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "metrics"
            raise RunError(
                f"{folder / 'stage.json'}: {where}: was not written by `edgekit transfer`",
                f"delete {folder} and run the same command again",
            ) from error

    def metrics(self) -> dict[str, Any]:
        """For a stage's record."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True)
class TransferTarget:
    """A data set to transfer to.

    Args:
        name: of its folder.
        where: the folder, as the user gave it.
        splits: `labeled` holds all of its training images.
        split: description of how training and test images were split.
    """

    name: str
    where: str
    splits: Splits
    split: str

    @property
    def digests(self) -> dict[str, Any]:
        """The identity of the data set."""
        splits = self.splits
        return {"train": splits.labeled.digest, "test": splits.test.digest, "classes": splits.classes}


def open_target(where: str, recipe: Recipe, test: float) -> TransferTarget:
    """Open a folder with one sub-folder per class, or with train/ and test/ that contain them; split like the images of a recipe.

    Args:
        where: the folder, or `digits`.
        recipe: the run's: its size, normalization and seed of the split.
        test: share of each class to hold out if the folder has no test set.

    Raises:
        DataError: it is missing, empty, without labels, or has too few images.
    """
    layout = inspect_folder(where)
    if layout.labeled is None:
        raise DataError(f"{where}: holds images without labels", "give a folder with one sub-folder per class")
    content = recipe.data.model_dump() | {
        "labeled": layout.labeled, "test": layout.test or test, "pool": None, "normal": None, "probe": 0.0, "labels": 1.0, "stream": False,
        "classes_per_image": "one",
    }  # fmt: skip
    splits = load_splits(DataConfig.model_validate(content))
    split = (
        "its own train and test folders"
        if layout.test
        else f"{test:.0%} of each class held out by content and seed {recipe.data.split_seed}"
    )
    return TransferTarget(layout.name, where, splits, split)


def transfer(
    run: Run,
    folders: Sequence[str],
    *,
    finetune: bool = False,
    epochs: int | None = None,
    test: float = 0.2,
    on_set: Callable[[TransferSet], None] = lambda done: None,
) -> Transfer:
    """Score the encoder of a run on other data sets; every folder is opened before anything is computed.

    Args:
        run: with a complete pretraining.
        folders: see `open_target`.
        finetune: also train all weights on each set, from the encoder and from random weights, with the recipe's `finetune`.
        epochs: of fine-tuning, instead of the recipe's.
        test: share to hold out if a folder has no test set.
        on_set: called after each set.

    Raises:
        RunError: the pretraining is not complete, or another process trains into the run.
        DataError: a folder is not such a data set.
    """
    recipe = run.recipe
    outputs = run.require("pretrain").outputs
    weights = outputs["model.safetensors"]
    pretrained = load_pretrained(run.stage_path("pretrain"), outputs)
    targets = [open_target(where, recipe, test) for where in folders]
    config = recipe.finetune.model_copy(update={"epochs": epochs} if epochs else {})
    sets = []
    with only_one(run):
        for target in targets:
            own = settled_stage("finetune", config, max(2, len(target.splits.labeled))) if finetune else None
            scores = _scores(run, recipe, target, pretrained, weights, own)
            sets.append(
                TransferSet(
                    name=target.name, data=target.where, classes=len(target.splits.classes), train=len(target.splits.labeled),
                    test=len(target.splits.test), split=target.split, scores=scores,
                )
            )  # fmt: skip
            on_set(sets[-1])
    return Transfer(run=str(run.path), weights_sha256=weights, sets=sets)


def _scores(
    run: Run, recipe: Recipe, target: TransferTarget, pretrained: Pretrained, weights: str, config: Finetune | None
) -> list[Score]:
    """Return the scores of one set; each part is a stage in RUN/transfer/NAME-DIGEST/."""
    common = {
        "from": weights, "seed": recipe.seed, "version": _VERSION, **target.digests,
        "mean": recipe.data.mean, "std": recipe.data.std,
    }  # fmt: skip
    folder = f"transfer/{target.name}-{digest_of(common)[:8]}"
    counts = {"train": len(target.splits.labeled), "test": len(target.splits.test)}

    def linear(_: Path) -> tuple[list[str], dict[str, Any]]:
        return [], {
            "encoder": _linear(pretrained.encoder, target, recipe).metrics(),
            "random": _linear(_fresh(pretrained, recipe), target, recipe).metrics(),
        }

    _, record = complete(run, f"{folder}/linear", common, linear, [], counts)
    place = run.stage_path(f"{folder}/linear")
    scores = [
        _score(
            target,
            model,
            "linear",
            TransferScores.read(record.metrics.get(model), place),
            _linear_protocol(target, what),
        )
        for model, what in (("encoder", "frozen encoder"), ("random", "frozen encoder of random weights"))
    ]
    for model, part in (("fine-tuned", "finetune"), ("from scratch", "scratch")):
        if config is None:
            continue
        encoder = (
            load_pretrained(run.stage_path("pretrain"), {FILES[1]: weights}).encoder
            if part == "finetune"
            else _fresh(pretrained, recipe)
        )
        inputs = common | {"config": settled_content(config), "weights": part}

        def train(place: Path, encoder: Encoder = encoder) -> tuple[list[str], dict[str, Any]]:
            return _train(encoder, pretrained, target, recipe, config, place)

        _, record = complete(run, f"{folder}/{part}", inputs, train, [], counts)
        start = "from the pretrained encoder" if part == "finetune" else "from random weights"
        protocol = (
            f"all weights trained {start}, linear classifier on the encoder's features, {config.epochs} epochs, {config.optimizer.name}, "
            f"lr {config.optimizer.lr:g}, on the training images; single center view, {LAST}; {target.split}"
        )
        measured = TransferScores.read(record.metrics, run.stage_path(f"{folder}/{part}"))
        scores.append(_score(target, model, "top1", measured, protocol))
    return scores


def _score(
    target: TransferTarget, model: str, metric: Literal["linear", "top1"], measured: TransferScores, protocol: str
) -> Score:
    samples = len(target.splits.test)
    return Score(
        model=model,
        metric=metric,
        value=measured.test_top1,
        samples=samples,
        protocol=protocol,
        per_class=measured.per_class,
    )


def _linear_protocol(target: TransferTarget, what: str) -> str:
    return (
        f"{what}, logistic regression on standardized features, L-BFGS, C the best of {len(_STRENGTHS)} from {_STRENGTHS[0]:g} to "
        f"{_STRENGTHS[-1]:g} on {_VALIDATION:.0%} of the training images, then trained on all of them; single center view; {target.split}"
    )


def _linear(encoder: Encoder, target: TransferTarget, recipe: Recipe) -> TransferScores:
    """Return the test accuracy of a linear classifier on frozen features; its regularization is chosen on a part of the training images."""
    data, device = recipe.data, device_of(recipe)
    training = target.splits.labeled.center_crop(data.image_size)
    test = target.splits.test
    known = apply(encoder, training.images, data.mean, data.std, device, f"{target.name} features")
    queries = apply(encoder, test.images, data.mean, data.std, device, f"{target.name} test")
    labels, truth = labels_of(training), labels_of(test)
    fitted, validation = _validation(training, len(target.splits.classes), recipe.seed)
    best, best_c = -1.0, 1.0
    with progress(f"{target.name} linear", len(_STRENGTHS) + 1, unit="fits") as advance:
        for c in _STRENGTHS if len(validation) else ():
            predicted = linear_probe(known[fitted], labels[fitted], known[validation], c)
            value = accuracy(predicted, labels[validation])
            if value > best:  # of equal ones, the most regularized
                best, best_c = value, c
            advance(1)
        predicted = linear_probe(known, labels, queries, best_c)
        advance(1)
    return TransferScores.of(predicted, truth, target.splits.classes, best_c)


def _validation(training: ImageSet, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return training rows and validation rows, by class; a class with one image has no validation row."""
    assert training.labels is not None
    sizes = np.bincount(training.labels, minlength=classes)
    counts = [share(int(n), _VALIDATION) if n > 1 else 0 for n in sizes]
    order = shuffled(training.names, training.digests, "transfer validation", seed)
    rows = draw(order, training.labels, counts, np.ones(len(training), dtype=bool))
    return torch.from_numpy(np.setdiff1d(np.arange(len(training)), rows)), torch.from_numpy(rows)


def _fresh(pretrained: Pretrained, recipe: Recipe) -> Encoder:
    """Return the same network with random weights, as a baseline."""
    torch.manual_seed(seed_for(recipe.seed, "transfer", "weights"))
    return build_encoder(
        pretrained.architecture.model_copy(update={"weights": None}), pretrained.image_size,
        normalization=pretrained.encoder.given,
    )  # fmt: skip


def _train(
    encoder: Encoder, pretrained: Pretrained, target: TransferTarget, recipe: Recipe, config: Finetune, folder: Path
) -> tuple[list[str], dict[str, Any]]:
    """Train all weights with a linear classifier on the encoder's features."""
    from edgekit.train.loop.engine import fit

    images, data = target.splits.labeled, recipe.data
    model = Classifier(pretrained.architecture, pretrained.image_size, target.splits.classes, encoder)
    task = ClassifyTask(model, augment_for(config.augmentation, data), config.label_smoothing)
    batches = batches_of(images, min(config.batch_size, len(images)), seed_for(recipe.seed, "transfer", "order"), True)
    assert config.epochs != "auto"  # it is settled
    last = fit(
        task, batches, folder, stage="finetune", epochs=config.epochs, optimizer=config.optimizer, seed=recipe.seed,
        hardware=recipe.hardware,
    )  # fmt: skip
    files = save_classifier(folder, model)
    test = target.splits.test
    predicted = apply(model, test.images, data.mean, data.std, device_of(recipe), f"{target.name} test").argmax(1)
    measured = TransferScores.of(predicted, labels_of(test), target.splits.classes)
    return [*files, "history.csv"], {**last, **measured.metrics()}
