"""Advice: each rule on facts made for it, and planted mistakes in real trainings, which have to be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from edgekit import recipe as recipes
from edgekit.data.splits import load_splits
from edgekit.result import Advice
from edgekit.run import Run
from edgekit.train.advice import RunFacts, StageFacts, advise, rules
from edgekit.train.advice.views import ViewScores
from edgekit.train.assess import advice_for
from edgekit.train.stages.pipeline import train
from tests.helpers.recipe_changes import TINY, changed

N, CLASSES = 400, 4
TRUTH = np.arange(N) % CLASSES


def right_on(share: float) -> np.ndarray:
    """Answers of which this share is right; wrong ones are of the next class."""
    answers = TRUTH.copy()
    answers[round(share * N) :] = (answers[round(share * N) :] + 1) % CLASSES
    return answers


def facts(**changes: Any) -> RunFacts:
    """A run that nothing is wrong with."""
    good = StageFacts(epochs=50, steps=1000, losses=[1.2, 0.5, 0.1], top1=0.97, labels_top1=1.0)
    predicted = {"linear": 0.85, "centroid": 0.84, "teacher": 0.9, "student": 0.9, "supervised": 0.7}
    plain = RunFacts(
        classes=["ant", "bee", "cat", "dog"],
        held="probe set, 400 images",
        truth=TRUTH,
        stages=dict.fromkeys(("pretrain", "finetune", "distill", "supervised"), good),
        predicted={name: right_on(share) for name, share in predicted.items()},
        knn=[(10, 0.7), (20, 0.8), (30, 0.802), (40, 0.802)],
        knn_before=0.4,
        knn_after=0.802,
        views=ViewScores(0.8, 0.6, 0.25),
        in_pool=np.full(CLASSES, 0.25),
        pool=1000,
        label_counts=[10] * CLASSES,
    )
    # Few answers of the student are wrong, and spread over the pairs of classes.
    return replace(plain, **changes)


def names(advice: list[Advice]) -> list[str]:
    return [a.rule for a in advice]


def with_model(**shares: float) -> dict[str, np.ndarray]:
    return facts().predicted | {name: right_on(share) for name, share in shares.items()}


def with_stage(stage: str, **changes: Any) -> dict[str, StageFacts]:
    return facts().stages | {stage: replace(facts().stages[stage], **changes)}


def test_a_run_that_nothing_is_wrong_with_gets_no_advice() -> None:
    assert advise(facts()) == []


@pytest.mark.parametrize(
    ("rule", "changes", "said"),
    [
        ("few_steps", {"stages": with_stage("finetune", steps=30, epochs=30, labels_top1=0.4)}, ["30 steps", "40.0%", "finetune.epochs: 300"]),
        ("few_steps", {"stages": with_stage("distill", steps=100, epochs=20, top1=0.6)}, ["60.0%", "distill.epochs: 60"]),
        ("learning_rate", {"stages": with_stage("supervised", losses=[9.0, 2.2], top1=0.2, labels_top1=0.2)}, ["from 1.39 to 9", "lr by 10"]),
        ("training_accuracy", {"stages": with_stage("finetune", labels_top1=0.5, top1=0.5)}, ["50.0%", "finetune.epochs: 100"]),
        ("training_accuracy", {"stages": with_stage("finetune", top1=0.5)}, ["50.0%", "finetune.augmentation.crop_scale"]),
        ("teacher", {"predicted": with_model(teacher=0.7, student=0.7, supervised=0.5)}, ["70.0%", "85.0%", "linear probe", "finetune"]),
        ("teacher", {"fallback": (0.6, 0.7)}, ["60.0%", "70.0%", "finetune.optimizer.lr"]),
        ("student", {"predicted": with_model(student=0.8)}, ["80.0%", "90.0%", "data.pool"]),
        ("student", {"predicted": with_model(student=0.8), "stages": with_stage("distill", top1=0.8)}, ["distill.epochs: 100"]),
        ("scratch", {"predicted": with_model(supervised=0.95)}, ["90.0%", "95.0%", "pretrain.epochs: 100"]),
        ("scratch", {"predicted": with_model(supervised=0.7, student=0.6, teacher=0.6)}, ["60.0%", "70.0%", "frozen encoder is not worse"]),
        ("pretraining", {"knn_after": 0.4, "knn": []}, ["40.0%", "pretrain.optimizer.lr"]),
        ("improving", {"knn": [(10, 0.4), (20, 0.6), (30, 0.65), (40, 0.7)]}, ["60.0%", "70.0%", "pretrain.epochs: 80", "+5.0 points"]),
        ("views", {"views": ViewScores(0.8, 0.3, 0.25, "gray", 0.75)}, ["30.0%", "80.0%", "pretrain.augmentation.gray: 0", "75.0%"]),
        ("views", {"views": ViewScores(0.8, 0.28, 0.25, "crop", 0.75)}, ["28.0%", "80.0%", "pretrain.augmentation.crop_scale: [0.3, 1.0]"]),
        ("mirrored", {"mirrored": 0.93, "flipping": ["pretrain", "distill"]}, ["93.0%", "flip: 0, distill.augmentation.flip: 0"]),
        ("other_teacher", {"other_teachers": {"runs/other": right_on(0.3)}}, ["runs/other", "30.0%", "90.0%", "{model: own}"]),
        ("missing_class", {"in_pool": np.array([0.33, 0.33, 0.33, 0.01])}, ["1.0%", "dog", "data.pool"]),
        ("pseudo_labels", {"dropped": (80, "wrong", "only 3 are right")}, ["at step 80", "only 3 are right", "check the labels"]),
        ("pseudo_labels", {"dropped": (80, "unknown", "it is other")}, ["it is other", "consistency.enabled: false"]),
        ("other_pool", {"other_pool": "the pool differs: 52.0% and 5.0%"}, ["52.0%", "data.pool"]),
        ("learning_rate", {"stages": with_stage("distill", losses=[17.0, 34.0, 2.3], top1=0.13)}, ["from 17 to 34", "13.0%", "distill.optimizer.lr"]),
        ("shift", {"on_test": (0.7, 1000)}, ["90.0%", "70.0% on the 1,000 test images", "data.pool"]),
        ("mixed_classes", {"predicted": with_model(student=0.9) | {"student": np.where(TRUTH == 2, 3, TRUTH)}}, ["cat and dog (100 of their 200"]),
        ("no_gain", {"predicted": with_model(supervised=0.9)}, ["90.0%, the same network from scratch 90.0%", "pretrain.epochs: 100"]),
        ("no_gain", {"predicted": with_model(supervised=0.98, student=0.98, teacher=0.98)}, ["98.0%", "data.labels"]),
        ("labels", {"predicted": with_model(linear=0.26, centroid=0.26, teacher=0.25, student=0.27, supervised=0.24)}, ["27.0%", "25.0%"]),
    ],
)  # fmt: skip
def test_a_rule_says_its_number_and_a_change(rule: str, changes: dict[str, Any], said: list[str]) -> None:
    found = [a for a in advise(facts(**changes)) if a.rule == rule]
    assert len(found) == 1, names(advise(facts(**changes)))
    for words in said:
        assert words in f"{found[0].finding} -> {found[0].change}"
    assert not found[0].finding.endswith(".")


def test_what_chance_explains_is_no_finding() -> None:
    almost = with_model(teacher=0.84, student=0.835, supervised=0.836)  # of 400 images, two to six more are wrong
    assert not set(names(advise(facts(predicted=almost)))) & {"teacher", "student", "scratch"}


def test_a_difference_of_test_and_probe_set_that_chance_explains_is_no_finding() -> None:
    assert rules.shift(facts(on_test=(0.88, 1000))) == []
    assert rules.shift(facts(on_test=(0.7, 10))) == []


def test_an_improvement_that_chance_explains_is_no_finding() -> None:
    curve = [(80, 0.37), (160, 0.386), (322, 0.397)]
    assert names(rules.improving(facts(knn=curve))) == ["improving"]
    assert rules.improving(facts(knn=curve, knn_images=1380)) == []
    assert names(rules.improving(facts(knn=[(80, 0.7), (160, 0.845), (322, 0.876)], knn_images=1397))) == ["improving"]


def test_what_follows_from_too_few_steps_is_not_said_twice() -> None:
    short = with_stage("finetune", steps=10, labels_top1=0.4)
    found = names(advise(facts(stages=short, predicted=with_model(teacher=0.5, student=0.5, supervised=0.4))))
    assert found[0] == "few_steps"
    assert "teacher" not in found


def test_a_linear_probe_that_was_sure_of_crops_is_no_learning_rate_that_is_too_high() -> None:
    start = with_stage("finetune", losses=[15.0, 19.0, 3.0], top1=0.76, labels_top1=0.98)
    assert "learning_rate" not in names(advise(facts(stages=start)))
    lost = with_stage(
        "finetune", losses=[15.0, 29.0, 3.0], top1=0.3, labels_top1=1.0
    )  # that of the probe, which was stored
    assert "learning_rate" in names(advise(facts(stages=lost, fallback=(0.3, 0.7))))


def test_a_probe_that_was_confident_from_the_start_is_no_learning_rate_that_is_too_high() -> None:
    """After 4 steps, too few to tell: the loss was high from the start. One that rises in 4 steps is a finding."""
    short = with_stage("finetune", steps=4, losses=[538.0, 416.0, 324.0, 384.0], top1=0.11, labels_top1=0.11)
    assert names(advise(facts(stages=short))) == ["few_steps"]
    risen = with_stage("finetune", steps=4, losses=[15.0, 66.0, 50.0, 45.0], top1=0.11, labels_top1=0.11)
    assert "learning_rate" in names(advise(facts(stages=risen)))


def test_a_learning_rate_that_is_too_high_is_the_only_finding_on_its_stage() -> None:
    lost = with_stage("finetune", losses=[15.0, 66.0, 2.3], top1=0.1, labels_top1=1.0)
    assert names(advise(facts(stages=lost, fallback=(0.1, 0.78), knn_images=359))) == ["learning_rate"]
    lost = with_stage("distill", losses=[17.0, 34.0, 2.3], top1=0.13)
    assert names(advise(facts(stages=lost, predicted=with_model(student=0.3)))) == ["learning_rate"]
    shrinking = with_stage("distill", losses=[34.0, 17.0, 2.3], top1=0.3)
    assert "learning_rate" not in names(advise(facts(stages=shrinking)))


def test_a_fallback_that_chance_explains_is_no_finding() -> None:
    assert rules.teacher(facts(fallback=(0.855, 0.858), knn_images=359)) == []
    assert names(rules.teacher(facts(fallback=(0.5, 0.858), knn_images=359))) == ["teacher"]


def test_a_class_that_the_pool_lacks_is_not_a_confused_class() -> None:
    confused = facts().predicted | {"student": np.where(TRUTH == 3, 2, TRUTH)}
    assert names(rules.mixed_classes(facts(predicted=confused))) == ["mixed_classes"]
    lacking = np.array([0.33, 0.33, 0.33, 0.01])
    assert names(advise(facts(predicted=confused, in_pool=lacking))) == ["missing_class", "student"]


def test_a_teacher_of_another_set_explains_the_student() -> None:
    other = {"runs/other": right_on(0.0)}
    lost = with_model(student=0.0)
    assert names(advise(facts(other_teachers=other, predicted=lost))) == ["other_teacher"]
    assert {"student", "scratch"} <= set(names(advise(facts(predicted=lost))))


def test_strong_crops_that_still_say_something_are_left_alone() -> None:
    assert rules.views(facts(views=ViewScores(0.8, 0.35, 0.25, "crop", 0.75))) == []


def test_labels_that_do_not_go_with_the_images_are_the_only_finding() -> None:
    lost = with_model(linear=0.25, centroid=0.25, teacher=0.25, student=0.25, supervised=0.25)
    assert names(advise(facts(predicted=lost, knn_after=0.2))) == ["labels"]


def test_the_expected_gain_is_the_last_one_shrunk_as_the_one_before_was() -> None:
    (found,) = rules.improving(facts(knn=[(25, 0.4), (50, 0.6), (75, 0.65), (100, 0.7)]))
    assert "+5.0 points" in found.change  # 20 points, then 10, then 5
    (found,) = rules.improving(facts(knn=[(50, 0.6), (100, 0.7)]))
    assert "+5.0 points" in found.change  # half, where nothing is known of the doubling before
    assert rules.improving(facts(knn=[(100, 0.7)])) == []


# Planted mistakes, in trainings of seconds: what must be found follows from the mistake, not from how well it was trained.

SMALL = changed(
    TINY,
    data={"image_size": 8, "labels": 12, "probe": 0.2, "test": 0.2},
    pretrain__encoder={"name": "resnet10", "width": 0.125, "stem": "cifar"},
    pretrain__batch_size=64,
    pretrain__epochs=2,
    finetune={"epochs": 30, "batch_size": 40, "augmentation": {"crop": 0.0, "flip": 0.0}},
    finetune__optimizer={"name": "adamw", "lr": 3e-3, "scale_lr": False},
    distill__student={"name": "resnet10", "width": 0.125, "stem": "cifar"},
    distill__batch_size=64,
    distill__epochs=2,
    distill__labeled_weight=0.0,
    supervised__enabled=False,
    hardware={"accelerator": "cpu", "threads": 1},
)  # fmt: skip


def small(labeled: Path, **changes: object) -> dict[str, Any]:
    return changed(SMALL, data__labeled=str(labeled), **changes)


def advice(recipe: dict[str, Any], folder: Path) -> list[Advice]:
    run, parsed = Run(folder), recipes.parse(recipe)
    train(parsed, run)
    return advice_for(run, load_splits(parsed.data, run))


def write_digits(folder: Path, class_of: Callable[[int, int], int], *, leave_out: int | None = None) -> Path:
    """The first 900 of scikit-learn's digits, the i-th of digit d in the folder of class `class_of(i, d)`."""
    digits = load_digits()
    for i, (image, digit) in enumerate(zip(digits.images[:900], digits.target[:900].tolist(), strict=True)):
        if digit != leave_out:
            path = folder / str(class_of(i, digit)) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "images", lambda i, digit: digit)


def test_too_few_steps_are_found(digits: Path, tmp_path: Path) -> None:
    short = {"enabled": True, "search": False, "epochs": 1, "batch_size": 40, "optimizer": {"warmup_epochs": 0}}
    found = advice(small(digits, supervised=short), tmp_path / "run")
    few = {a.change.partition(".")[0].removeprefix("set "): a for a in found if a.rule == "few_steps"}
    assert {"supervised", "distill", "pretrain"} <= set(few)
    steps = 120 // 40
    assert few["supervised"].finding.startswith(f"supervised had {steps} steps")
    assert few["supervised"].change == f"set supervised.epochs: {300 // steps}"


def test_a_learning_rate_that_is_too_high_is_found(digits: Path, tmp_path: Path) -> None:
    """AdamW moves every weight by about the learning rate: with 30, the loss after the first step is far above that before it."""
    changes = {"finetune__optimizer__lr": 30.0, "finetune__epochs": 6, "finetune__batch_size": 120}
    found = advice(small(digits, **changes), tmp_path / "run")
    assert "divide finetune.optimizer.lr by 10" in [a.change for a in found if a.rule == "learning_rate"]


def test_flips_of_images_that_have_a_left_and_a_right_are_found(digits: Path, tmp_path: Path) -> None:
    flips = {"crop_scale": (0.5, 1.0), "flip": 0.5, "jitter": 0.0}
    found = advice(small(digits, pretrain__augmentation=flips), tmp_path / "run")
    (about,) = [a for a in found if a.rule == "mirrored"]
    assert "set pretrain.augmentation.flip: 0" in about.change


def test_shuffled_labels_are_found(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 10, 900).tolist()
    shuffled = write_digits(tmp_path / "images", lambda i, digit: drawn[i])
    assert names(advice(small(shuffled), tmp_path / "run")) == ["labels"]


def test_an_augmentation_that_hides_the_classes_is_found(tmp_path: Path) -> None:
    """Four colors of equal luma at random brightness: gray says nothing about the class."""
    rng = np.random.default_rng(0)
    colors = np.array([[200, 82, 90], [60, 152, 90], [60, 120, 253], [150, 100, 140]]) / 255
    colors /= (colors @ [0.299, 0.587, 0.114])[:, None]
    for i in range(400):
        path = tmp_path / "images" / "abcd"[i % 4] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.uniform(0.1, 0.4, (8, 8, 1)) * colors[i % 4]
        Image.fromarray((255 * pixels).round().clip(0, 255).astype(np.uint8)).save(path)
    found = advice(small(tmp_path / "images", pretrain__augmentation={"gray": 1.0, "jitter": 0.0}), tmp_path / "run")
    (about,) = [a for a in found if a.rule == "views"]
    assert about.change.startswith("set pretrain.augmentation.gray: 0")


def test_a_class_that_the_pool_lacks_is_found(digits: Path, tmp_path: Path) -> None:
    pool = write_digits(tmp_path / "pool", lambda i, digit: digit, leave_out=0)
    found = advice(small(digits, data__pool=str(pool)), tmp_path / "run")
    (about,) = [a for a in found if a.rule == "missing_class"]
    assert about.change.startswith("add images of 0 to data.pool")


@pytest.mark.extra
def test_a_teacher_of_another_set_is_found(digits: Path, tmp_path: Path) -> None:
    """It was trained on the same digits under other names: where it knows them, it is wrong."""
    other = write_digits(tmp_path / "images", lambda i, digit: (digit + 1) % 10)
    train(recipes.parse(small(other)), Run(tmp_path / "other"), until="finetune")
    found = advice(small(digits, distill__teachers=[{"model": str(tmp_path / "other")}]), tmp_path / "run")
    (about,) = [a for a in found if a.rule == "other_teacher"]
    assert str(tmp_path / "other") in about.finding
    assert "{model: own}" in about.change
