"""`edgekit init --teacher`: a recipe whose pretraining learns from a pretrained encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit import recipe as recipes
from edgekit.cli.main import cli
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.run import Run


def written(*options: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(cli, ["init", "digits", *options])
    return outcome.exit_code, outcome.output


def taught_by(text: str) -> DistillConfig:
    config = recipes.parse(recipes.read_yaml(text)).pretrain
    assert isinstance(config, DistillConfig)
    return config


def test_a_network_of_timm_becomes_the_teacher_of_a_valid_commented_recipe() -> None:
    code, text = written("--teacher", "timm:vit_small_patch14_dinov2.lvd142m")
    assert code == 0, text
    config = taught_by(text)
    assert config.teacher.model == "timm:vit_small_patch14_dinov2.lvd142m"
    assert config.target == "image"
    teachers = recipes.parse(recipes.read_yaml(text)).distill.teachers
    assert [teacher.model for teacher in teachers] == ["pretrain.teacher"], "a few labels say more about its features"
    assert "it was trained on images of 518 px" in text
    assert config.augmentation.flip == 0, "digits are not mirrored"
    assert "temperature: 0.2" not in text.partition("finetune:")[0], "nothing of SimCLR is left"


def test_a_file_beside_its_config_and_a_run_become_teachers(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    code, text = written("--teacher", str(file))
    assert code == 0, text
    assert (taught_by(text).teacher.model, taught_by(text).teacher.weights) == ("timm:resnet18", str(file))
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.recipe_path.write_text(recipes.dump(recipes.parse({})))
    code, text = written("--teacher", str(run.path))
    assert code == 0, text
    assert taught_by(text).teacher.model == str(run.path)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("timm:resnet18.a1_in2k", "--teacher: timm has no weights 'resnet18.a1_in2k' (did you mean resnet18.a1_in1k"),
        ("torchvision:resnet81", "torchvision has no network 'resnet81' (did you mean resnet18"),
        ("nowhere", "--teacher nowhere: no such file or run"),
        ("weights.pth", "nothing says which network these weights are of"),
    ],
)
def test_a_teacher_that_is_not_there_is_one_line(
    teacher: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.pth").write_bytes(b"x")
    outcome = CliRunner().invoke(cli, ["init", "digits", "--teacher", teacher])
    assert outcome.exit_code != 0
    assert message in f"{outcome.output} {outcome.exception}"


def test_a_time_limit_needs_a_measurement_that_knows_no_teacher() -> None:
    outcome = CliRunner().invoke(cli, ["init", "digits", "--teacher", "timm:resnet18.a1_in1k", "--time", "5m"])
    assert "--time and --teacher cannot be combined" in f"{outcome.output} {outcome.exception}"
