"""Checks of pseudo-labels on held-out images: their numbers, planted mistakes, and good cases, in which nothing is dropped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from edgekit import recipe as recipes
from edgekit.data.images import ImageSet
from edgekit.data.splits import Splits, load_splits
from edgekit.intervals import wilson
from edgekit.models.classifier import Classifier
from edgekit.models.pixels import normalize
from edgekit.recipe import Finetune, Hardware, Optimizer
from edgekit.run import Run
from edgekit.train.evaluate import labels_of
from edgekit.train.loop.engine import fit
from edgekit.train.loop.failures import TrainingInterrupted
from edgekit.train.loop.loader import ShuffledImages
from edgekit.train.records.inputs import stage_inputs
from edgekit.train.stages.consistency import PseudoLabels
from edgekit.train.stages.finetuning import FinetuneTask, Pool
from edgekit.train.stages.held_out import HeldOutCheck, HeldOutChecks, check_labels, check_pseudo_labels
from edgekit.train.stages.pipeline import train
from edgekit.train.stages.training_tasks import Batch, StepDraws
from tests.helpers.distilled import CLASSES, NO_AUGMENTATION, Halting, classifier, images
from tests.helpers.recipe_changes import TINY, changed

UNIFORM = torch.full((len(CLASSES),), 1 / len(CLASSES))
GOOD = HeldOutCheck(images=200, counted=100, right=95, confidence=0.98, pool_images=5000, pool_counted=2600)


@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 2**31))
def test_a_check_counts_like_a_naive_loop(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, truth, counts, confidence = rng.integers(0, k, n), rng.integers(0, k, n), rng.random(n) < 0.5, rng.random(n)
    found = check_pseudo_labels(*map(torch.from_numpy, (labels, counts, confidence, truth)), (7, 3))
    sure = [i for i in range(n) if counts[i]]
    assert (found.images, found.counted, found.pool_images, found.pool_counted) == (n, len(sure), 7, 3)
    assert found.right == sum(labels[i] == truth[i] for i in sure)
    assert found.confidence == pytest.approx(sum(confidence[i] for i in sure) / len(sure) if sure else 0.0)
    if sure:
        accuracy = found.right / len(sure)
        assert found.overconfidence == max(0.0, found.confidence - wilson(accuracy, len(sure))[1])
        assert found.overconfidence <= max(0.0, found.confidence - accuracy)
    else:
        assert found.overconfidence == 0
    assert 0 <= found.pool_difference <= max(1e-9, abs(3 / 7 - len(sure) / n))


WRONG = replace(GOOD, right=20)
OTHER = replace(GOOD, counted=10, right=10)


def checked(*checks: HeldOutCheck, max_gap: float = 0.3) -> HeldOutChecks:
    some = HeldOutChecks(max_gap)
    for check in checks:
        some.add(check, counts=True)
    return some


def test_each_mistake_is_named_with_its_numbers() -> None:
    assert WRONG.wrong == (
        "on the probe set, the model is confident about 100 of 200 images (mean confidence 98%), but only 20 of these are right"
    )
    assert "52.0% of its pseudo-labels are confident, but 5.0% on the probe set" in OTHER.other_pool


def test_two_failed_checks_in_a_row_are_needed() -> None:
    assert checked(WRONG, WRONG).wrong
    assert not checked(WRONG).wrong
    assert not checked(WRONG, GOOD, WRONG).wrong
    assert not checked(GOOD, GOOD).wrong
    assert not checked(WRONG, WRONG, max_gap=1.0).wrong
    first_steps = HeldOutChecks(0.3)
    first_steps.add(WRONG, counts=False)
    first_steps.add(WRONG, counts=True)
    assert not first_steps.wrong


def test_another_pool_is_remembered_but_not_wrong() -> None:
    later = replace(OTHER, pool_counted=2500)
    some = checked(OTHER, later, GOOD, GOOD)
    assert (some.other_pool, some.wrong, some.last) == (later, False, GOOD)
    assert checked(OTHER, GOOD, OTHER).other_pool is None


@pytest.mark.parametrize("checks", [(), (WRONG,), (WRONG, WRONG), (OTHER,), (OTHER, OTHER), (GOOD, OTHER, WRONG)])
def test_checks_survive_a_checkpoint(checks: tuple[HeldOutCheck, ...]) -> None:
    some = checked(*checks)
    restored = HeldOutChecks(0.3)
    restored.load(some.state())
    for further in (None, WRONG, OTHER):
        if further is not None:
            some.add(further, counts=True)
            restored.add(further, counts=True)
        assert (restored.state(), restored.wrong, restored.other_pool) == (some.state(), some.wrong, some.other_pool)
    older = HeldOutChecks(0.3)
    older.load({"steps": 40, "stopped_at": None, "drift": 0.1})
    assert older.state() == HeldOutChecks(0.3).state()


def test_few_images_prove_nothing() -> None:
    few = replace(GOOD, counted=2, right=0, pool_counted=100)
    assert max(few.overconfidence, few.pool_difference) <= 0.5
    none_counts = replace(GOOD, images=3, counted=0, right=0, confidence=0.0, pool_counted=4000)
    assert max(none_counts.overconfidence, none_counts.pool_difference) <= 0.5
    nothing = HeldOutCheck(0, 0, 0, 0.0, 0, 0)
    assert (nothing.overconfidence, nothing.pool_difference) == (0, 0)


@pytest.mark.parametrize(
    ("error", "labels", "found"),
    [
        (None, 10, "too few labels to tell"),
        (0.9, 100, "not better than guessing"),
        (0.9, 20, "too few labels to tell"),
        (0.3, 20, "better than guessing"),
        (0.8, 500, "better than guessing"),
    ],
)
def test_without_a_probe_set_the_labels_must_teach_something(error: float | None, labels: int, found: str) -> None:
    assert check_labels(error, torch.arange(labels) % 10) == found


def bright(count: int, first: int, value: int) -> ImageSet:
    """Images of one gray level."""
    some = images(count, first, labeled=True)
    return ImageSet(np.full_like(some.images, value), some.names, some.digests, some.labels)


def trained(held_out: ImageSet, pool: ImageSet, steps: int = 80, **consistency: object) -> FinetuneTask:
    """A task after some steps without an update, whose model is sure of class 0 wherever an image is bright."""
    config = Finetune(consistency={"images": 8, "threshold": 0.9, "align": "none", **consistency})
    pseudo = PseudoLabels(UNIFORM, None, 0.9, 1.0)
    task = FinetuneTask(classifier(0), NO_AUGMENTATION, config, Pool(pool, NO_AUGMENTATION, pseudo, held_out))
    task.train()

    def sure_of_bright(pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(20 * pixels.mean((1, 2, 3))[:, None], (0, 2))

    for model in (task.model, task.result):
        model.forward = sure_of_bright  # type: ignore[method-assign]
    labeled = images(6, labeled=True)
    assert labeled.labels is not None
    batch = Batch(
        images=torch.from_numpy(labeled.images), index=torch.arange(6), labels=torch.from_numpy(labeled.labels)
    )
    for seed in range(steps):
        task(batch, StepDraws(torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)), monitor=False)
        task.after_step(0.5)
    return task


def test_confident_pseudo_labels_that_are_wrong_on_held_out_images_are_dropped() -> None:
    held_out, pool = bright(60, 100, 255), bright(12, 900, 255)
    task = trained(held_out, pool)
    assert task.stopped_at == 80, "not in the first steps, and not for one failed check"
    assert task.reason == "wrong"
    assert task.checks.last == HeldOutCheck(60, 60, 20, pytest.approx(1.0, abs=1e-3), 160, 160)
    assert "only 20 of these are right" in task.why
    assert trained(held_out, pool, max_gap=1.0).stopped_at is None
    all_right = ImageSet(held_out.images, held_out.names, held_out.digests, np.zeros(60, np.int64))
    assert trained(all_right, pool).stopped_at is None
    unchecked = trained(held_out.subset([]), pool)
    assert (unchecked.stopped_at, unchecked.checks.last) == (None, None)


def test_a_pool_that_is_more_confident_than_the_held_out_images_is_kept_with_a_warning() -> None:
    task = trained(bright(60, 100, 127), bright(12, 900, 255))  # zero after the normalization: all classes are equal
    assert (task.stopped_at, task.reason, task.why) == (None, "", "")
    assert task.checks.other_pool is not None
    assert "100.0% of its pseudo-labels are confident, but 0.0% on the probe set" in task.checks.other_pool.other_pool
    same = trained(bright(60, 100, 255), bright(12, 900, 255))
    assert same.checks.other_pool is None


class Halted(Halting, FinetuneTask):
    """Stops after some steps."""


@pytest.mark.parametrize("max_gap", [pytest.param(1.0, marks=pytest.mark.extra), 0.001], ids=["let pass", "dropped"])
def test_an_interrupted_fine_tuning_is_judged_as_a_whole_one(max_gap: float, tmp_path: Path) -> None:
    def run(folder: Path, stop_at: int) -> Halted:
        pseudo = PseudoLabels(UNIFORM, UNIFORM, 0.34, 1.0)
        pool = Pool(images(12, 900), NO_AUGMENTATION, pseudo, bright(40, 300, 90))
        config = Finetune(ema=0.9, consistency={"images": 8, "max_gap": max_gap, "threshold": 0.34})
        task = Halted(classifier(0), NO_AUGMENTATION, config, pool)
        task.stop_at = stop_at
        fit(
            task, ShuffledImages(images(24, labeled=True), 8, seed=3), folder, stage="finetune", epochs=30,
            optimizer=Optimizer(name="adamw", lr=1e-2, scale_lr=False), seed=1,
            hardware=Hardware(accelerator="cpu", checkpoint_seconds=0),
        )  # fmt: skip
        return task

    whole = run(tmp_path / "whole", 0)
    assert (whole.stopped_at is None) is (max_gap == 1.0)
    with pytest.raises(TrainingInterrupted):
        run(tmp_path / "cut", 67)  # between the two checks that decide
    resumed = run(tmp_path / "cut", 0)
    assert whole.checks.last is not None
    assert (resumed.stopped_at, resumed.why) == (whole.stopped_at, whole.why)
    assert resumed.checks.state() == whole.checks.state()
    for name, tensor in whole.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            assert torch.equal(tensor, resumed.state_dict()[name]), name


# Fine-tunings of seconds, from an encoder that is good: right labels and shuffled ones must differ by the labels alone.
QUICK = changed(
    TINY,
    data__labels=10,
    pretrain__optimizer={"name": "adamw", "lr": 1e-6, "scale_lr": False, "warmup_epochs": 0},
    pretrain__epochs=1,
    finetune__epochs=100,
    finetune__batch_size=100,
    finetune__optimizer={"name": "adamw", "lr": 1e-4, "scale_lr": False, "warmup_epochs": 0},
    finetune__augmentation={"flip": 0.0, "crop": 0.0},
    # Few images are above 0.95 after so few steps; and a mean confidence of half is at most that far above the accuracy.
    finetune__consistency={"images": 32, "threshold": 0.4, "max_gap": 0.15},
)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """QUICK, with weights that have learned the digits of the test set from their labels: 80 epochs of three steps."""
    recipe = recipes.parse(QUICK)
    test = load_splits(recipe.data).test
    torch.manual_seed(0)
    model = Classifier.build(recipe.pretrain.encoder, recipe.data.image_size, [str(i) for i in range(10)], [])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pixels = normalize(torch.tensor(test.images), recipe.data.mean, recipe.data.std)
    for _ in range(80):
        for rows in torch.randperm(len(test)).split(128):
            loss = torch.nn.functional.cross_entropy(model(pixels[rows]), labels_of(test)[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.encoder.network.state_dict().items()}, path)
    return changed(QUICK, pretrain__encoder__weights=str(path))


@pytest.fixture(scope="module")
def pretrained(quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("runs") / "pretrained")
    train(recipes.parse(quick), run, until="pretrain")
    return run


def shuffled(splits: Splits) -> Splits:
    labeled = splits.labeled
    assert labeled.labels is not None
    drawn = np.random.default_rng(0).permutation(labeled.labels)
    return replace(splits, labeled=ImageSet(labeled.images, labeled.names, labeled.digests, drawn))


def test_shuffled_labels_stop_consistency_with_a_warning(
    quick: dict[str, Any], pretrained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = recipes.parse(quick), Run(tmp_path / "run")
    train(recipe, run, splits=shuffled(load_splits(recipe.data)), until="finetune", reuse=[pretrained])
    found = run.require("finetune").metrics["consistency"]
    assert (found["stopped_at"] is not None, found["reason"]) == (True, "wrong")
    assert found["held_out"]["right"] < found["held_out"]["counted"] / 2
    assert (
        f"finetune: warning: consistency stopped at step {found['stopped_at']}: {found['why']}"
        in capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_right_labels_leave_consistency_alone(
    seed: int, quick: dict[str, Any], pretrained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    train(recipes.parse(changed(quick, data__label_seed=seed)), run, until="finetune", reuse=[pretrained])
    found = run.require("finetune").metrics["consistency"]
    assert (found["stopped_at"], found["reason"], found["other_pool"]) == (None, "", "")
    assert found["held_out"]["right"] > found["held_out"]["counted"] / 2 > 0
    assert "finetune: warning" not in capsys.readouterr().err


def test_without_a_probe_set_shuffled_labels_are_found_by_the_labels_alone(
    quick: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = recipes.parse(changed(quick, data__probe=0, finetune__epochs=1)), Run(tmp_path / "run")
    train(recipe, run, splits=shuffled(load_splits(recipe.data)), until="finetune")
    found = run.require("finetune").metrics["consistency"]
    assert (found["stopped_at"], found["labels"]) == (0, "not better than guessing")
    assert "consistency stopped at step 0: a linear probe on the frozen encoder is no better" in capsys.readouterr().err


def test_too_few_labels_for_any_check_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run = (
        recipes.parse(changed(QUICK, data__probe=0, data__labels=1, finetune__epochs=1)),
        Run(tmp_path / "run"),
    )
    train(recipe, run, until="finetune")
    assert run.require("finetune").metrics["consistency"]["stopped_at"] is None
    assert (
        "the pseudo-labels were not checked: there is no probe set, and 10 labels are too few"
        in capsys.readouterr().err
    )


def test_the_new_limit_retrains_nothing_where_it_is_left_at_its_default(quick: dict[str, Any], pretrained: Run) -> None:
    plain = changed(quick, finetune__consistency={"images": 32})
    recipe = recipes.parse(plain)
    splits = load_splits(recipe.data)
    inputs = stage_inputs("finetune", recipe, splits, pretrained)
    assert "max_gap" not in inputs["config"]["consistency"]
    other = recipes.parse(changed(plain, finetune__consistency__max_gap=0.4))
    assert stage_inputs("finetune", other, splits, pretrained) != inputs
