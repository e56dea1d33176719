"""Fine-tuning: the start from the linear probe, what a step trains on, going on to the same bits, and falling back to the probe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.data.images import ImageSet
from edgekit.recipe import Finetune, Hardware, Optimizer
from edgekit.train.evaluate import linear_probe
from edgekit.train.loop.engine import fit
from edgekit.train.loop.failures import TrainingInterrupted
from edgekit.train.loop.loader import ShuffledImages
from edgekit.train.loop.optim import build_optimizer
from edgekit.train.loop.step import Batch, StepDraws
from edgekit.train.stages.consistency import PseudoLabels
from edgekit.train.stages.finetuning import FinetuneTask, Pool, layer_shares
from edgekit.train.stages.linear_head import fit_linear, start_from_probe
from edgekit.train.stages.teacher import fold_count, left_out_error
from tests.helpers.distilled import CLASSES, NO_AUGMENTATION, Halting, classifier, images

UNIFORM = torch.full((len(CLASSES),), 1 / len(CLASSES))


def pool(count: int = 12, threshold: float = 0.0, max_drift: float = 1.0) -> Pool:
    return Pool(images(count, 900), NO_AUGMENTATION, PseudoLabels(UNIFORM, UNIFORM, threshold, max_drift))


def step(task: FinetuneTask, of: ImageSet, seed: int = 0) -> torch.Tensor:
    assert of.labels is not None
    batch = Batch(images=torch.from_numpy(of.images), index=torch.arange(len(of)), labels=torch.from_numpy(of.labels))
    draws = StepDraws(torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed))
    return task(batch, draws, monitor=False)["loss"]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_head_answers_as_the_linear_probe_does(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    features = 5 + 3 * torch.randn(60, 9, generator=generator)
    labels = torch.arange(60) % classes
    queries = 5 + 3 * torch.randn(500, 9, generator=generator)
    weight, bias = fit_linear(features, labels, classes)
    logits = queries.double() @ weight.double().T + bias.double()
    top = logits.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 1e-4  # the head is stored in float32
    assert clear.float().mean() > 0.98
    assert torch.equal(logits.argmax(1)[clear], linear_probe(features, labels, queries)[clear])


def test_a_class_without_a_label_is_never_the_first_choice() -> None:
    features, labels = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2 * 2
    weight, bias = fit_linear(features, labels, 4)
    assert torch.isfinite(weight).all()
    assert set((features @ weight.T + bias).argmax(1).tolist()) <= {0, 2}


def test_a_single_class_leaves_the_last_layer_as_it_is() -> None:
    model = classifier(0)
    before = model.head.weight.clone()
    start_from_probe(model, torch.randn(4, model.head.in_features), torch.zeros(4, dtype=torch.int64))
    assert torch.equal(model.head.weight, before)


def test_the_loss_is_that_of_the_labels_and_of_the_pseudo_labels_in_one_batch() -> None:
    some = images(6, labeled=True)
    task = FinetuneTask(classifier(0), NO_AUGMENTATION, Finetune(consistency={"images": 8, "weight": 0.5}), pool())
    task.train()
    seen: list[int] = []
    task.model.encoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    assert task.averaged is not None
    assert task.pool is not None
    loss = step(task, some)
    assert seen == [14], "labels and strong views normalize together; the average sees the weak views"
    generator = torch.Generator().manual_seed(0)
    known = NO_AUGMENTATION(torch.from_numpy(some.images), generator)
    rows = np.sort(torch.randperm(12, generator=generator)[:8].numpy())
    drawn = NO_AUGMENTATION(torch.from_numpy(task.pool.images.images[rows]), generator)
    logits = task.model(torch.cat([known, drawn]))
    decided = task.averaged(drawn).softmax(1)  # aligned to a share that has moved by a hundredth
    share = 0.99 * UNIFORM + 0.01 * decided.mean(0)
    expected = nn.functional.cross_entropy(logits[:6], torch.from_numpy(some.labels))
    expected = expected + 0.5 * nn.functional.cross_entropy(logits[6:], (decided / share).argmax(1))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is None for p in task.averaged.parameters())


def test_the_average_decides_in_evaluation_mode_and_is_what_is_stored() -> None:
    task = FinetuneTask(classifier(0), NO_AUGMENTATION, Finetune(ema=0.5), pool())
    task.train()
    assert task.averaged is not None
    assert not any(module.training for module in task.averaged.modules())
    assert task.model.training
    assert task.result is task.averaged.module
    plain = FinetuneTask(classifier(0), NO_AUGMENTATION, Finetune(ema=0))
    assert plain.result is plain.model
    assert plain.averaged is None


def test_drifting_pseudo_labels_are_dropped_and_the_labels_go_on() -> None:
    some = images(6, labeled=True)
    task = FinetuneTask(classifier(0), NO_AUGMENTATION, Finetune(consistency={"images": 8}), pool(max_drift=0.2))
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    task.train()
    with torch.no_grad():  # everything falls into one class
        for model in (task.model, task.result):
            model.head.weight.zero_()
            model.head.bias.copy_(torch.tensor([20.0, 0.0, 0.0]))
    for seed in range(60):
        step(task, some, seed)
        task.after_step(0.5)
    assert task.stopped_at == 60
    assert task.drift > 0.2
    for model in (task.model, task.result):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]), f"{name}: what the pseudo-labels taught is undone"
    seen: list[int] = []
    task.model.encoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    loss = step(task, some)
    assert seen == [6]
    known = NO_AUGMENTATION(torch.from_numpy(some.images), torch.Generator())
    torch.testing.assert_close(loss, nn.functional.cross_entropy(task.model(known), torch.from_numpy(some.labels)))


class Halted(Halting, FinetuneTask):
    """Stops after some steps."""


@pytest.mark.parametrize("max_drift", [1.0, 0.01], ids=["consistent", "dropped"])
def test_an_interrupted_fine_tuning_goes_on_to_the_same_bits(max_drift: float, tmp_path: Path) -> None:
    def train(folder: Path, stop_at: int) -> Halted:
        some = pool(threshold=0.4, max_drift=max_drift)
        some.pseudo.steps += 100  # old enough to be judged at the first look
        task = Halted(classifier(0), NO_AUGMENTATION, Finetune(ema=0.9, consistency={"images": 8}), some)
        task.stop_at = stop_at
        fit(
            task, ShuffledImages(images(24, labeled=True), 8, seed=3), folder, stage="finetune", epochs=8,
            optimizer=Optimizer(name="adamw", lr=1e-2, scale_lr=False), seed=1,
            hardware=Hardware(accelerator="cpu", checkpoint_seconds=0),
        )  # fmt: skip
        return task

    whole = train(tmp_path / "whole", 0)
    assert (whole.stopped_at is None) is (max_drift == 1.0)
    with pytest.raises(TrainingInterrupted):
        train(tmp_path / "cut", 22)
    resumed = train(tmp_path / "cut", 0)
    assert (resumed.steps, resumed.stopped_at, resumed.drift) == (whole.steps, whole.stopped_at, whole.drift)
    for name, tensor in whole.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert (tmp_path / "whole" / "history.csv").read_text() == (tmp_path / "cut" / "history.csv").read_text()


def test_layer_wise_decay_slows_the_early_layers() -> None:
    model = classifier(0)
    shares = layer_shares(model, 0.5)
    first, last = next(model.encoder.network.parameters()), list(model.encoder.network.parameters())[-1]
    assert shares[first] < shares[last] == 0.5
    assert model.head.weight not in shares
    optimizer = build_optimizer(Optimizer(name="sgd", lr=0.4, scale_lr=False), model, 8, (), shares)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.head.weight)] == 0.4
    assert rates[id(last)] == pytest.approx(0.2)
    assert rates[id(first)] == pytest.approx(0.4 * shares[first])
    assert len(rates) == len(list(model.parameters()))


def test_few_labels_are_left_out_one_by_one_and_many_of_many_classes_in_few_parts() -> None:
    assert fold_count(100 * 512 * 10, 100) == 100
    assert fold_count(1000 * 512 * 10, 1000) == 200
    assert fold_count(600 * 512 * 300, 600) == 43
    assert fold_count(6000 * 512 * 300, 6000) == 5
    assert fold_count(3 * 10**12, 4) == 4


def test_the_left_out_error_is_that_of_the_probe_on_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12) % 3
    features = torch.randn(12, 5, generator=generator) + 2 * nn.functional.one_hot(labels, 5)
    wrong = 0
    for i in range(12):
        others = torch.arange(12) != i
        wrong += int(linear_probe(features[others], labels[others], features[i : i + 1])[0] != labels[i])
    assert left_out_error(features, labels) == wrong / 12
    assert left_out_error(features, torch.arange(12) % 6 // 5) is not None
    assert left_out_error(features[:3], labels[:3]) is None, "one image a class"
