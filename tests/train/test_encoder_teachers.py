"""Runs with `pretrain.method: distill`: teachers of every kind, their features kept or computed, their scores, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from edgekit import recipe as recipes
from edgekit.data.augment import Augment
from edgekit.data.images import ImageSet
from edgekit.errors import EdgekitError, RecipeError
from edgekit.models.pixels import normalize
from edgekit.models.store import load_pretrained
from edgekit.recipe import Augmentation, DataConfig, EncoderTeacher, TeacherSource
from edgekit.run import Run
from edgekit.train.distill.teachers import load_teachers
from edgekit.train.loop.step import Batch, StepDraws
from edgekit.train.pretrain import build_method
from edgekit.train.pretrain.teacher import FrozenEncoder, load_encoder_teacher, teacher_identity
from edgekit.train.pretrain.teacher_features import TeacherFeatures, only_flips
from edgekit.train.records.inputs import stage_inputs
from edgekit.train.stages.pipeline import Report, train
from edgekit.train.stages.teaching import DistilledTask
from tests.helpers.distilled import images as image_set
from tests.helpers.recipe_changes import changed

DATA = DataConfig(labeled="digits", image_size=16)
TINY = {"name": "resnet10", "width": 0.125, "stem": "strided"}
PLAIN = {"name": "sgd", "lr": 0.01, "warmup_epochs": 0}
MODULE = """
import torch
from torch import nn

def encoder():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))   # maps, which are averaged

def gray():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())

def words():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2))

def bare():
    return 3

def broken(needed):
    return None
"""
RECIPE = {
    "name": "taught",
    "data": {"labeled": "digits", "image_size": 16, "labels": 10},
    "pretrain": {
        "method": "distill", "teacher": {"model": "a_teacher:encoder", "image_size": 24, "mean": [0.4, 0.5, 0.6], "std": 0.3},
        "encoder": TINY, "epochs": 1, "batch_size": 600, "optimizer": PLAIN, "target": "image",
    },
    "finetune": {"epochs": 1, "batch_size": 50, "optimizer": PLAIN, "train": "head"},
    "distill": {"student": TINY, "epochs": 1, "batch_size": 600, "optimizer": PLAIN},
    "supervised": {"enabled": False},
    "hardware": {"accelerator": "cpu", "precision": "fp32"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_teacher.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "a_teacher", raising=False)


def teacher(**keys: object) -> FrozenEncoder:
    content = {"model": "a_teacher:encoder", "image_size": 24, "mean": (0.4, 0.5, 0.6), "std": 0.3, **keys}
    return load_encoder_teacher(EncoderTeacher.model_validate(content), DATA, Run(Path("run")))


def features(pool: ImageSet, folder: Path, of: FrozenEncoder | None = None, flips: bool = True) -> TeacherFeatures:
    return TeacherFeatures(
        of or teacher(), pool, 16, flips=flips, identity={}, folder=folder, device=torch.device("cpu"), bf16=False
    )  # fmt: skip


def outcomes(config: recipes.Recipe, folder: Path, until: str = "pretrain") -> dict[str, str]:
    reports: list[Report] = []
    train(config, Run(folder), on_stage=reports.append, until=until)
    return {report.stage: report.outcome for report in reports}


def test_a_teacher_sees_its_own_size_and_normalization_in_evaluation_mode_without_gradients() -> None:
    built = teacher()
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = normalize(pixels, DATA.mean, DATA.std).requires_grad_()
    larger = nn.functional.interpolate(
        pixels.permute(0, 3, 1, 2) / 255, (24, 24), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    mean = torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1)
    with torch.no_grad():
        expected = built.network((larger - mean) / 0.3).mean((2, 3))
    assert torch.allclose(built(images), expected, atol=1e-5)
    assert torch.equal(built(images), built(images)), "its dropout and its BatchNorm are off"
    assert not built(images).requires_grad
    assert not any(parameter.requires_grad for parameter in built.network.parameters())
    assert built.width == 4


def test_kept_features_are_those_of_the_image_and_of_its_mirror_image(tmp_path: Path) -> None:
    pool = image_set(70)
    built, kept = teacher(), features(pool, tmp_path)
    kept.complete()
    index, mirrored = torch.tensor([69, 3, 3]), torch.tensor([False, True, False])
    images = normalize(torch.from_numpy(np.array(pool.images)), DATA.mean, DATA.std)
    expected = torch.stack([built(images[[69]])[0], built(images[[3]].flip(3))[0], built(images[[3]])[0]])
    assert torch.allclose(kept(index, mirrored), expected, rtol=2e-3, atol=1e-4), "float16 on the disk"


def test_an_interrupted_computation_goes_on_and_a_complete_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.train.pretrain.teacher_features._BATCH", 8)
    monkeypatch.setattr("edgekit.train.pretrain.teacher_features._PART", 2)
    pool, whole = image_set(70), features(image_set(70), tmp_path / "whole")
    whole.complete()
    first = features(pool, tmp_path)
    calls, real = 0, first.teacher.network.forward

    def interrupted(images: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 11:  # two calls a batch: in the sixth of nine
            raise KeyboardInterrupt
        return real(images)

    monkeypatch.setattr(first.teacher.network, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        first.complete()
    second, third = features(pool, tmp_path), features(pool, tmp_path)
    second.complete()
    assert second.computed == 70 - 32, "four batches were noted as done"
    third.complete()
    assert third.computed == 0
    rows, none = torch.arange(70), torch.zeros(70, dtype=torch.bool)
    assert torch.equal(second(rows, none), whole(rows, none))
    assert torch.equal(third(rows, ~none), whole(rows, ~none))


@pytest.mark.parametrize("change", ["identity", "pool", "flips", "size", "normalization"])
def test_kept_features_are_found_by_all_that_they_depend_on(change: str, tmp_path: Path) -> None:
    before = features(image_set(70), tmp_path).path
    changes = {
        "pool": lambda: features(image_set(70, first=5), tmp_path),
        "flips": lambda: features(image_set(70), tmp_path, flips=False),
        "size": lambda: features(image_set(70), tmp_path, teacher(image_size=32)),
        "normalization": lambda: features(image_set(70), tmp_path, teacher(mean=0.5)),
    }
    if change == "identity":
        other = TeacherFeatures(
            teacher(), image_set(70), 16, flips=True, identity={"weights": "other"}, folder=tmp_path,
            device=torch.device("cpu"), bf16=False,
        )  # fmt: skip
        assert other.path != before
    else:
        assert changes[change]().path != before
    assert features(image_set(70), tmp_path).path == before


def test_where_views_are_only_flipped_kept_features_are_those_of_the_views(tmp_path: Path) -> None:
    flips = Augmentation(crop=0.0, jitter=0.0, gray=0.0, blur=0.0)
    assert only_flips(flips, 16)
    assert not only_flips(Augmentation(jitter=0.0, gray=0.0), 16), "it crops"
    assert not only_flips(Augmentation(crop=0.0, jitter=0.0, gray=0.0), 224), "it blurs large images"
    pool, built = image_set(32), teacher()
    kept = features(pool, tmp_path, built)
    kept.complete()
    config = recipes.parse(changed(RECIPE, pretrain__batch_size=32)).pretrain
    augment = Augment(flips.model_copy(update={"flip": 0.0}), 16, DATA.mean, DATA.std)
    batch = Batch(images=torch.from_numpy(np.array(pool.images)), index=torch.arange(32))
    losses = []
    for of_images, stored in ((False, kept), (False, None), (True, None)):
        torch.manual_seed(0)
        task = DistilledTask(build_method(config, 16, 32, None, built.width), augment, 0.5, built, stored, of_images)
        draws = StepDraws(torch.Generator().manual_seed(1), torch.Generator())
        losses.append(task(batch, draws, monitor=False)["loss"].item())
        assert not any("teacher" in name for name in task.state_dict()), "it is no part of the checkpoint"
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)


def test_a_run_learns_from_a_teacher_and_says_what_the_teacher_knows(tmp_path: Path) -> None:
    config = recipes.parse(RECIPE)
    assert outcomes(config, tmp_path / "run", "distill") == dict.fromkeys(
        ("data", "pretrain", "finetune", "distill"), "done"
    )
    run = Run(tmp_path / "run")
    metrics = run.require("pretrain").metrics
    assert {"knn", "linear", "knn_random_weights"} <= set(metrics)
    assert metrics["teacher"]["features"] == "kept"
    assert 0 < metrics["teacher"]["knn"] <= 1
    assert 0 < metrics["teacher"]["linear"] <= 1
    encoder = load_pretrained(run.stage_path("pretrain"))
    assert encoder.head.layers[-1].out_features == 4, "the width of the teacher's features"
    tuned = run.stage_path("finetune") / "model.safetensors"
    import safetensors.torch

    its = safetensors.torch.load_file(tuned)
    assert all(torch.equal(its[f"encoder.{n}"], t) for n, t in encoder.encoder.state_dict().items()), "train: head"
    assert outcomes(config, tmp_path / "run", "distill") == dict.fromkeys(
        ("data", "pretrain", "finetune", "distill"), "skipped"
    )
    other = recipes.parse(changed(RECIPE, pretrain__teacher__std=0.4))
    assert outcomes(other, tmp_path / "run") == {"data": "skipped", "pretrain": "done"}
    taught = recipes.parse(changed(RECIPE, name="next", pretrain__teacher={"model": str(tmp_path / "run")}))
    assert outcomes(taught, tmp_path / "next") == {"data": "done", "pretrain": "done"}
    assert Run(tmp_path / "next").require("pretrain").metrics["teacher"]["title"] == "run/pretrain"


def test_a_run_learns_the_places_of_a_map_where_both_networks_have_several(tmp_path: Path) -> None:
    wider = {
        "name": "resnet10",
        "width": 0.125,
    }  # its last map has 2 x 2 places, that of the strided one a single place
    maps = changed(RECIPE, pretrain__objective="maps", pretrain__encoder=wider)
    assert outcomes(recipes.parse(maps), tmp_path / "run") == {"data": "done", "pretrain": "done"}
    metrics = Run(tmp_path / "run").require("pretrain").metrics
    assert metrics["teacher"]["features"] == "in every step"
    assert 0 < metrics["teacher"]["knn"] <= 1
    refused = [
        ({"pretrain__encoder": TINY}, r"^pretrain\.objective: maps: resnet10 has no map of its 64 features on images of 16 px"),
        ({"hardware__compile": True}, r"^hardware\.compile: a compiled encoder"),
    ]  # fmt: skip
    for number, (keys, message) in enumerate(refused):
        with pytest.raises(RecipeError, match=message):
            outcomes(recipes.parse(changed(maps, **keys)), tmp_path / f"refused-{number}")


def test_pseudo_labels_are_learned_on_strong_views_although_those_of_the_distillation_are_mild() -> None:
    config = recipes.parse(changed(RECIPE, pretrain__augmentation={"flip": 0.0}))
    assert config.pretrain.augmentation.jitter == 0
    assert config.strong_augmentation == Augmentation(flip=0.0)
    given = recipes.parse(changed(RECIPE, finetune__consistency={"augmentation": {"jitter": 0.1}}))
    assert given.strong_augmentation.jitter == 0.1
    assert recipes.parse({}).strong_augmentation == recipes.parse({}).pretrain.augmentation


def test_the_inputs_of_other_methods_do_not_know_the_new_keys(tmp_path: Path) -> None:
    from edgekit.data.splits import load_splits

    config = recipes.parse({"data": {"labeled": "digits", "image_size": 16}})
    run = Run(tmp_path)
    inputs = stage_inputs("pretrain", config, load_splits(config.data), run)
    assert "teacher" not in inputs
    assert not {"mean", "std", "interpolate_positions", "channels"} & set(inputs["config"]["encoder"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": "timm:resnet18.a1_in2k"}, r"pretrain\.teacher\.model: timm has no weights .*did you mean resnet18\.a1_in1k"),
        ({"model": "torchvision:resnet81"}, r"pretrain\.teacher.*no network 'resnet81' \(did you mean resnet18"),
        ({"model": "timm:vit_tiny_patch16_224", "image_size": 64}, r"positional embedding is for them; here it gets 64 px"),
        ({"model": "a_teacher:gray"}, r"a_teacher:gray: fails on images \(2, 3, 16, 16\).*\(it must take three channels"),
        ({"model": "a_teacher:words"}, r"a_teacher:words: returned \(2, 4, 196\) for 2 images, not features \(2, d\)"),
        ({"model": "a_teacher:bare"}, r"returned a int, not an nn\.Module"),
        ({"model": "a_teacher:broken"}, r"a_teacher:broken: fails: TypeError.*\(the function must take no arguments"),
        ({"model": "a_teacher:missing"}, r"a_teacher has no missing"),
        ({"model": "a_teacher:encoder", "weights": "other.pth"}, r"other\.pth: does not have the tensors of this network|none of its tensors"),
        ({"model": "timm:test_resnet", "weights": "other.pth"}, r"none of its tensors has a name of this network"),
        ({"model": "other.pth"}, r"other\.pth is a file, which does not say what network it is of"),
        ({"model": "run"}, r"run is the run that trains"),
        ({"model": "nowhere"}, r"nowhere"),
    ],
)  # fmt: skip
def test_a_teacher_that_cannot_teach_is_one_clear_line(keys: dict[str, object], message: str) -> None:
    torch.save({"other.weight": torch.zeros(3)}, "other.pth")
    run = Run(Path("run"))
    run.path.mkdir()
    run.recipe_path.write_text(recipes.dump(recipes.parse(RECIPE)))
    source = EncoderTeacher.model_validate(keys)
    with pytest.raises(EdgekitError, match=message) as caught:
        load_encoder_teacher(source, DATA, run)
    assert "\n" not in str(caught.value)


def test_a_file_is_known_by_its_content_and_published_weights_by_their_place(tmp_path: Path) -> None:
    run = Run(tmp_path)
    torch.save(timm.create_model("test_resnet").state_dict(), "mine.pth")
    named = teacher_identity(EncoderTeacher(model="timm:test_resnet.r160_in1k"), run)
    filed = teacher_identity(EncoderTeacher(model="timm:test_resnet", weights="mine.pth", image_size=32), run)
    assert named == {"network": "timm:test_resnet.r160_in1k", "published": "timm/test_resnet.r160_in1k"}
    assert filed.keys() == {"network", "weights", "image_size"}
    built = load_encoder_teacher(EncoderTeacher(model="timm:test_resnet", weights="mine.pth", image_size=32), DATA, run)
    assert built.own == (0.5, 0.5), "timm's own, one number where three are equal"
    assert built.image_size == 32


def test_a_classifier_of_a_library_teaches_with_the_users_weights_size_and_its_own_normalization(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3).eval()
    torch.save(network.state_dict(), "mine.pth")
    source = TeacherSource(model="timm:test_resnet", weights="mine.pth", image_size=32)
    (built,) = load_teachers([source], Run(tmp_path), DATA, ["a", "b", "c"])
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    larger = nn.functional.interpolate(
        pixels.permute(0, 3, 1, 2) / 255, (32, 32), mode="bicubic", antialias=True
    ).clamp(0, 1)
    with torch.no_grad():
        expected = network((larger - 0.5) / 0.5)  # timm's own for it
    assert torch.allclose(built(normalize(pixels, DATA.mean, DATA.std))[0], expected, atol=1e-4)
    with pytest.raises(
        RecipeError, match=r"test_resnet\.r160_in1k has 1000 classes, but data\.labeled has 3 .*pretrain\.teacher"
    ):
        load_teachers(
            [TeacherSource(model="timm:test_resnet", weights="pretrained")], Run(tmp_path), DATA, ["a", "b", "c"]
        )
    with pytest.raises(ValueError, match="weights is missing: name the file of the weights of timm:test_resnet"):
        TeacherSource(model="timm:test_resnet")
