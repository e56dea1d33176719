"""`finetune.train`: what is frozen keeps its bits, weights and BatchNorm statistics alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit import recipe as recipes
from edgekit.data.augment import Augment
from edgekit.errors import RecipeError
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import build_encoder
from edgekit.recipe import Architecture, Finetune
from edgekit.train.ablate import plan_values
from edgekit.train.loop.optim import build_optimizer
from edgekit.train.loop.step import Batch, StepDraws
from edgekit.train.stages.finetuning import FinetuneTask
from edgekit.train.stages.freezing import freeze, last_stage

RESNET = Architecture(name="resnet10", width=0.125)


def trained(train: str, steps: int = 3) -> tuple[FinetuneTask, dict[str, torch.Tensor]]:
    """A few steps of fine-tuning with layer-wise decay; the task, and the state before them."""
    torch.manual_seed(0)
    config = Finetune.model_validate({"train": train, "layer_decay": 0.7, "consistency": {"enabled": False}})
    model = Classifier.build(RESNET, 16, ["a", "b"], [8])
    nn.init.normal_(model.head.weight)  # it is zero at first, and no gradient would reach the encoder
    task = FinetuneTask(model, Augment(config.augmentation, 16, 0.5, 0.25), config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = build_optimizer(config.optimizer, task, 8, (), task.lr_shares())
    generator = torch.Generator().manual_seed(0)
    task.train()
    for _ in range(steps):
        images = torch.randint(0, 256, (8, 16, 16, 3), generator=generator, dtype=torch.uint8)
        batch = Batch(images=images, labels=torch.randint(0, 2, (8,), generator=generator), index=torch.arange(8))
        optimizer.zero_grad()
        task(batch, StepDraws(generator, generator), monitor=False)["loss"].backward()
        optimizer.step()
        task.after_step(0.5)
    return task, before


@pytest.mark.parametrize(
    ("train", "kept"), [("all", ()), ("last_stage", ("conv1", "bn1", "layer1", "layer2", "layer3")), ("head", ("",))]
)
def test_frozen_parts_keep_their_bits_and_the_others_learn(train: str, kept: tuple[str, ...]) -> None:
    task, before = trained(train)
    for model in (task.model, task.result):  # the network and its average, which is stored
        after = model.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        frozen = (
            {n for n in before if n.startswith(tuple(f"encoder.network.{part}" for part in kept))} if kept else set()
        )
        assert not changed & frozen
        assert {"head.weight", "kept.layers.0.0.weight"} <= changed
        rest = {n for n in before if n.startswith("encoder.")} - frozen
        assert not rest or {n for n in rest if n.endswith(("weight", "running_mean"))} <= changed


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet10", "layer4"),
        ("timm:efficientnet_lite0", "blocks.6"),
        ("timm:test_vit", "blocks.5"),
        ("torchvision:squeezenet1_1", "features.12"),
    ],
)
def test_the_last_stage_is_found_by_the_names_of_the_parts(name: str, expected: str) -> None:
    network = build_encoder(Architecture(name=name), 160 if "vit" in name else 64, "x").network
    assert last_stage(network) == expected
    freeze(network, "last_stage")
    learns = [n for n, p in network.named_parameters() if p.requires_grad]
    names = [n for n, _ in network.named_parameters()]
    assert learns[0].startswith(expected)
    assert learns == names[names.index(learns[0]) :], "all that comes after the first one"


def test_an_ablation_varies_what_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: tiny\ndata: {labeled: digits}\n")
    plan = plan_values(path, [], ["finetune.train=all,last_stage,head", "data.labels=1,10"])
    assert [cell.recipe.finetune.train for cell in plan.cells] == [
        "all",
        "all",
        "last_stage",
        "last_stage",
        "head",
        "head",
    ]
    only = plan_values(path, [], ["finetune.train=all,head"])
    assert only.until == "finetune"


def test_an_unknown_part_is_refused_with_what_is_accepted() -> None:
    with pytest.raises(RecipeError, match=r"finetune\.train.*last_stage"):
        recipes.parse({"finetune": {"train": "last"}})
