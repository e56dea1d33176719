"""`pretrain.tiles`: windows of the images as instances, in the recipe and in a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgekit.data.augment import TiledAugment
from edgekit.errors import RecipeError
from edgekit.models.encoders import build_encoder
from edgekit.recipe import Recipe, Tiles, parse
from edgekit.run import Run
from edgekit.train.loop.step import StepDraws
from edgekit.train.pretrain import build_method
from edgekit.train.pretrain.losses import nt_xent
from edgekit.train.stages.pipeline import train
from edgekit.train.stages.training_tasks import PretrainTask
from edgekit.train.stages.views import augmentation_of, check_tiles
from tests.helpers import anomalies


def recipe(images: Path | str = "parts", **pretrain: Any) -> Recipe:
    return parse(
        {
            "name": "tiles", "task": "anomaly", "data": {"normal": str(images), "image_size": 32, "probe": 0.2, "pixel_range": "dtype"},
            "pretrain": {
                "encoder": anomalies.ENCODER, "epochs": 2, "batch_size": 8, "projection": {"hidden": 16, "output": 8},
                "tiles": {"side": 0.5, "count": 3}, **pretrain,
            },
            "hardware": {"accelerator": "cpu", "precision": "fp32"},
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pretrain", "message"),
    [
        ({"method": "moco"}, "pretrain.tiles"),
        ({"one_branch": ["crop"]}, "tiles and one_branch exclude each other"),
        ({"tiles": {"side": 1.5}}, "pretrain.tiles.side"),
        ({"tiles": {"side": 0}}, "pretrain.tiles.side"),
        ({"tiles": {"count": 0}}, "pretrain.tiles.count"),
        ({"tiles": 4}, "pretrain.tiles"),
    ],
)
def test_tiles_that_cannot_be(pretrain: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(**pretrain)
    assert message in str(caught.value)


def test_a_network_for_one_size_alone_takes_no_tiles() -> None:
    wanted = recipe(encoder={"name": "timm:vit_tiny_patch16_224"})
    encoder = build_encoder(wanted.pretrain.encoder, wanted.data.image_size)
    with pytest.raises(RecipeError, match=r"vit_tiny_patch16_224 does not take tiles of 16 px") as caught:
        check_tiles(wanted, encoder)
    assert "choose a convolutional network" in caught.value.hint
    check_tiles(recipe(), build_encoder(recipe().pretrain.encoder, 32))
    check_tiles(recipe(tiles=None, encoder=wanted.pretrain.encoder.model_dump()), encoder)


def test_a_step_compares_every_tile_with_all_others() -> None:
    """The loss of a step is NT-Xent of both views of all tiles of the batch, from the networks' own outputs."""
    wanted, images = recipe(), torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    torch.manual_seed(0)
    method = build_method(wanted.pretrain, wanted.data.image_size, 8)
    augment = augmentation_of(wanted, "pretrain")
    assert isinstance(augment, TiledAugment)
    assert augment.tiles == Tiles(side=0.5, count=3)

    def draws() -> StepDraws:
        return StepDraws(torch.Generator().manual_seed(1), torch.Generator().manual_seed(2))

    outcome = PretrainTask(method, augment)({"images": images, "index": torch.arange(8)}, draws(), monitor=True)
    first, second = augment(images, draws().own, 2).chunk(2)
    assert first.shape == (24, 3, 16, 16)
    projections = method.model.head(method.model.encoder(torch.cat([first, second])))
    expected = nt_xent(*projections.chunk(2), wanted.pretrain.temperature)
    torch.testing.assert_close(outcome["loss"], expected)
    assert set(outcome["logs"]) == {"collapse_std", "effective_rank"}


def test_a_run_trains_on_tiles(tmp_path: Path) -> None:
    images = anomalies.write_set(tmp_path / "parts", train=20, each=3)
    stages: list[str] = []
    train(recipe(images), Run(tmp_path / "run"), until="pretrain", on_stage=lambda report: stages.append(report.stage))
    assert stages == ["data", "pretrain"]
    assert (tmp_path / "run" / "pretrain" / "views.png").exists()
