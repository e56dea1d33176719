"""What a step of distillation computes and trains, the averaged student, and going on after an interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.data.images import ImageSet
from edgekit.recipe import Hardware, Optimizer
from edgekit.train.distill.distillation import DistillTask, with_labels
from edgekit.train.distill.losses import decoupled, distillation, regression
from edgekit.train.distill.mixing import Mixed, mix
from edgekit.train.loop.engine import fit
from edgekit.train.loop.failures import TrainingInterrupted
from edgekit.train.loop.loader import ShuffledImages
from tests.helpers.distilled import NO_AUGMENTATION, Halting, images, outputs, step, task


def test_dkd_takes_the_label_where_there_is_one_and_the_teacher_s_first_choice_elsewhere() -> None:
    some = images(6)
    some = ImageSet(some.images, some.names, some.digests, np.array([0, -1, 1, -1, 2, -1]))
    distill = task(loss="dkd", temperature=4.0, images="both")
    student, _, teacher, _ = outputs(distill, some)
    choice = teacher.argmax(1)
    target = torch.tensor([0, int(choice[1]), 1, int(choice[3]), 2, int(choice[5])])
    torch.testing.assert_close(step(distill, some), decoupled(student, teacher, target, 4.0, 1.0, 8.0))
    without = ImageSet(some.images, some.names, some.digests)
    torch.testing.assert_close(step(distill, without), decoupled(student, teacher, choice, 4.0, 1.0, 8.0))


def test_the_feature_loss_is_kd_and_a_projected_regression_and_trains_a_projector_that_is_not_stored() -> None:
    some, distill = images(6), task(loss="feature", feature_weight=0.7)
    student, mine, teacher, its = outputs(distill, some)
    assert distill.projector is not None
    expected = distillation(student, teacher, 1.0) + 0.7 * regression(distill.projector(mine), its)
    loss = step(distill, some)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert distill.projector.weight.grad is not None
    assert not any("projector" in name for name in distill.result.state_dict())


def test_the_labeled_share_of_a_labeled_batch_is_that_batch_s_own() -> None:
    some, distill = images(6, labeled=True), task(images="labeled", labeled_weight=0.25)
    student, _, teacher, _ = outputs(distill, some)
    hard = nn.functional.cross_entropy(student, torch.from_numpy(some.labels))
    torch.testing.assert_close(step(distill, some), 0.75 * distillation(student, teacher, 1.0) + 0.25 * hard)


def test_the_labeled_share_of_an_unlabeled_batch_is_drawn_from_the_budget() -> None:
    known = images(9, 500, labeled=True)
    distill = task(known, labeled_weight=0.25)
    seen: list[int] = []
    distill.student.encoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    distill.teachers[0].model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    assert torch.isfinite(step(distill, images(6)))
    assert seen == [12, 6], "the student sees both in one batch, the teacher the unlabeled images alone"


def test_mixed_images_are_between_two_of_the_batch() -> None:
    view = torch.rand(5, 3, 4, 4)
    mixed = mix(view, 0.5, torch.Generator().manual_seed(1))
    assert sorted(mixed.other.tolist()) == list(range(5))
    assert 0 <= float(mixed.share.min()) <= float(mixed.share.max()) <= 0.5
    for i in range(5):
        share = mixed.share[i]
        torch.testing.assert_close(mixed.images[i], (1 - share) * view[i] + share * view[mixed.other[i]])
    again = mix(view, 0.5, torch.Generator().manual_seed(1))
    assert torch.equal(again.images, mixed.images)
    torch.testing.assert_close(mix(view, 0.0, torch.Generator()).images, view)
    shares = mix(torch.zeros(4000, 1, 1, 1), 0.3, torch.Generator().manual_seed(2)).share
    assert float(shares.max()) <= 0.3
    assert abs(float(shares.mean()) - 0.15) < 5 * 0.3 / 12**0.5 / 4000**0.5  # five standard errors of a uniform share


def mixture(of: ImageSet) -> Mixed:
    """What `step` mixes: the augmentation draws first, from the same generator."""
    generator = torch.Generator().manual_seed(0)
    return mix(NO_AUGMENTATION(torch.from_numpy(of.images), generator), 0.5, generator)


def test_teacher_and_student_see_the_same_mixed_images() -> None:
    some, distill = images(6), task(mixup=0.5, temperature=2.0)
    seen: list[torch.Tensor] = []
    for model in (distill.student.encoder, distill.teachers[0].model):
        model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    loss = step(distill, some)
    mixed = mixture(some)
    assert len(seen) == 2
    assert torch.equal(seen[0], mixed.images)
    assert torch.equal(seen[1], mixed.images)
    student, teacher = distill.student(mixed.images), distill.teachers[0].model(mixed.images)
    torch.testing.assert_close(loss, distillation(student, teacher, 2.0))


def test_the_labeled_share_of_mixed_images_is_of_both_labels() -> None:
    some, distill = images(6, labeled=True), task(images="labeled", labeled_weight=1.0, mixup=0.5)
    mixed = mixture(some)
    chances, labels = distill.student(mixed.images).log_softmax(1), torch.from_numpy(some.labels)
    expected = torch.stack([
        -(1 - mixed.share[i]) * chances[i, labels[i]] - mixed.share[i] * chances[i, labels[mixed.other[i]]] for i in range(6)
    ]).mean()  # fmt: skip
    torch.testing.assert_close(step(distill, some), expected)


def test_several_teachers_count_as_one() -> None:
    some, distill = images(6), task(teachers=3, temperature=2.0)
    student = outputs(distill, some)[0]
    view = NO_AUGMENTATION(torch.from_numpy(some.images), torch.Generator())
    probabilities = torch.stack([teacher.model(view).div(2).softmax(1) for teacher in distill.teachers]).mean(0)
    expected = 4 * nn.functional.cross_entropy(student / 2, probabilities)
    torch.testing.assert_close(step(distill, some), expected)


def test_the_average_follows_the_student_and_is_what_is_stored() -> None:
    distill = task(ema=0.9)
    weight = distill.student.head.weight
    expected = weight.detach().clone()
    for age in range(1, 200):
        with torch.no_grad():
            weight += 0.1
        tau = min(0.9, (1 + age) / (10 + age))
        expected = tau * expected + (1 - tau) * weight.detach()
        distill.after_step(0.5)
    torch.testing.assert_close(distill.result.head.weight, expected)
    assert not torch.equal(distill.result.head.weight, weight)
    assert task().result is not None
    plain = task()
    assert plain.result is plain.student


def test_the_average_has_the_student_s_batch_normalization_statistics() -> None:
    distill = task(ema=0.999)
    distill.train()
    step(distill, images(6))
    distill.after_step(0.1)
    own, its = dict(distill.student.named_buffers()), dict(distill.result.named_buffers())
    assert own
    assert all(torch.equal(own[name], its[name]) for name in own)


class Halted(Halting, DistillTask):
    """Stops after some steps."""


@pytest.mark.parametrize(
    "config", [{"ema": 0.95, "mixup": 0.5}, {"loss": "feature", "ema": 0.5, "labeled_weight": 0.3}]
)
def test_an_interrupted_distillation_goes_on_to_the_same_bits(config: dict[str, object], tmp_path: Path) -> None:
    def train(folder: Path, stop_at: int) -> Halted:
        distill = task(**config)
        distill.__class__ = Halted
        distill.stop_at = stop_at  # type: ignore[attr-defined]
        batches = ShuffledImages(images(24), 8, seed=3)
        fit(
            distill, batches, folder, stage="distill", epochs=4, optimizer=Optimizer(name="sgd", lr=0.1), seed=1,
            hardware=Hardware(accelerator="cpu", checkpoint_seconds=0),
        )  # fmt: skip
        return distill  # type: ignore[return-value]

    whole = train(tmp_path / "whole", 0)
    with pytest.raises(TrainingInterrupted):
        train(tmp_path / "cut", 7)
    resumed = train(tmp_path / "cut", 0)
    assert resumed.steps == whole.steps == 12
    for name, tensor in whole.result.state_dict().items():
        assert torch.equal(tensor, resumed.result.state_dict()[name]), name
    assert (tmp_path / "whole" / "history.csv").read_text() == (tmp_path / "cut" / "history.csv").read_text()


def test_both_gives_the_pool_its_known_labels_and_adds_what_it_lacks() -> None:
    pool, outside = images(6), images(3, 100, labeled=True)
    inside = ImageSet(pool.images[[4, 1]], ["x", "y"], [pool.digests[4], pool.digests[1]], np.array([2, 0]))
    labeled = ImageSet(
        np.concatenate([outside.images, inside.images]), outside.names + inside.names, outside.digests + inside.digests,
        np.array([0, 1, 2, 2, 0]),
    )  # fmt: skip
    both = with_labels(pool, labeled)
    assert both.labels is not None
    assert both.labels.tolist() == [-1, 0, -1, -1, 2, -1, 0, 1, 2]
    rows = np.array([0, 5, 6, 8])
    np.testing.assert_array_equal(both.images[rows], np.concatenate([pool.images[[0, 5]], outside.images[[0, 2]]]))
    assert with_labels(pool, inside).images is pool.images, "nothing is copied where nothing is added"
    batch = next(ShuffledImages(both, 9, seed=0).stream(0))
    assert sorted(batch["labels"].tolist()) == sorted(both.labels.tolist())
