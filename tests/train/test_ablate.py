"""Ablations: planned and checked before anything is trained, each cell a run, what is common trained once, resumed cell by cell."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edgekit.errors import DataError, RecipeError, RunError
from edgekit.recipe import load
from edgekit.result import Ablation
from edgekit.run import Run
from edgekit.train.ablate import FIGURE_5, ablate, cell_name, cell_run, plan_augmentations, plan_values
from tests.helpers import recipe_changes
from tests.helpers.recipe_changes import changed

TINY = changed(
    recipe_changes.TINY,
    pretrain__epochs=1,
    pretrain__optimizer={"name": "sgd", "lr": 0.1, "warmup_epochs": 0},
    finetune={"epochs": 1, "batch_size": 50},
    hardware={"accelerator": "cpu"},
)


def written(folder: Path, **changes: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed(TINY, **changes)))
    return path


class Watched:
    """What `on_cell` was told; stops the ablation after some cells if asked to."""

    def __init__(self, stop_after: int = 0) -> None:
        self.stop_after = stop_after
        self.trained: list[bool] = []

    def __call__(self, ablation: Ablation, trained: bool) -> None:
        self.trained.append(trained)
        if len(self.trained) == self.stop_after:
            raise KeyboardInterrupt


def test_figure_5_has_every_transformation_alone_and_every_ordered_pair(tmp_path: Path) -> None:
    plan = plan_augmentations(written(tmp_path), [], [])
    branches = {tuple(cell.values): cell.recipe.pretrain.one_branch for cell in plan.cells}
    assert len(branches) == len(FIGURE_5) ** 2
    assert branches["blur", "blur"] == ["blur"]
    assert branches["crop", "color"] == ["crop", "color"]
    assert branches["color", "crop"] == ["color", "crop"]
    assert plan.until == "pretrain"
    # Nothing else of the recipe is touched.
    base = load(written(tmp_path)).model_dump(exclude={"pretrain": {"one_branch"}})
    assert all(cell.recipe.model_dump(exclude={"pretrain": {"one_branch"}}) == base for cell in plan.cells)


def test_fields_make_a_grid_and_commas_inside_brackets_belong_to_a_value(tmp_path: Path) -> None:
    fields = ["pretrain.temperature=0.1,0.5", "pretrain.augmentation.crop_scale=[0.08, 1.0],[0.5,1.0]"]
    plan = plan_values(written(tmp_path), ["pretrain.epochs=2"], fields)
    seen = [(c.recipe.pretrain.temperature, c.recipe.pretrain.augmentation.crop_scale) for c in plan.cells]
    assert seen == [(0.1, (0.08, 1.0)), (0.1, (0.5, 1.0)), (0.5, (0.08, 1.0)), (0.5, (0.5, 1.0))]
    assert {cell.recipe.pretrain.epochs for cell in plan.cells} == {2}
    names = [cell_name(plan, cell.values) for cell in plan.cells]
    assert len(set(names)) == 4
    assert all("/" not in name and " " not in name for name in names)


def test_earlier_names_are_accepted_and_planned_under_todays(tmp_path: Path) -> None:
    fields = [
        "distill.images=labelled,both",
        "distill.labelled_weight=0.1,0.5",
        "pretrain.augmentation.grey=0.2",
    ]  # codespell:ignore
    plan = plan_values(written(tmp_path), [], fields)
    assert [(axis.name, axis.values) for axis in plan.axes] == [
        ("distill.images", ["labeled", "both"]),
        ("distill.labeled_weight", ["0.1", "0.5"]),
        ("pretrain.augmentation.gray", ["0.2"]),
    ]
    assert [cell.recipe.distill.images for cell in plan.cells] == ["labeled"] * 2 + ["both"] * 2
    with pytest.raises(RecipeError, match=r"data\.labeled: photos is given twice"):
        plan_values(written(tmp_path), [], ["data.labeled=photos,photos"])
    with pytest.raises(RecipeError, match=r"distill\.labeled_weight is given twice"):
        plan_values(
            written(tmp_path), [], ["distill.labeled_weight=0", "distill.labelled_weight=1"]
        )  # codespell:ignore
    branches = plan_augmentations(written(tmp_path), [], ["colour", "grey"])  # codespell:ignore
    assert [cell.values for cell in branches.cells][1] == ["color", "gray"]


def test_the_cells_of_an_ablation_that_an_earlier_version_began_are_found(tmp_path: Path) -> None:
    values = plan_values(written(tmp_path), [], ["distill.labeled_weight=0.1,0.5"])
    branches = plan_augmentations(written(tmp_path), [], ["color", "blur"])
    for plan, earlier in ((values, "labelled_weight=0.5"), (branches, "colour+blur")):  # codespell:ignore
        cell = plan.cells[1].values
        folder = tmp_path / plan.subject
        assert cell_run(plan, cell, folder).path == folder / "cells" / cell_name(plan, cell)
        (folder / "cells" / earlier).mkdir(parents=True)
        assert cell_run(plan, cell, folder).path == folder / "cells" / earlier
        (folder / "cells" / cell_name(plan, cell)).mkdir()
        assert cell_run(plan, cell, folder).path == folder / "cells" / cell_name(plan, cell)


@pytest.mark.parametrize(
    ("fields", "until"),
    [
        (["pretrain.temperature=0.1,0.5"], "pretrain"),
        (["finetune.epochs=1,2"], "finetune"),
        (["data.labels=5,10"], "supervised"),
        (["pretrain.temperature=0.1", "finetune.epochs=1,2"], "supervised"),
    ],
)
def test_training_ends_with_the_stage_that_the_fields_belong_to(tmp_path: Path, fields: list[str], until: str) -> None:
    assert plan_values(written(tmp_path), [], fields).until == until


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            ["pretrain.temperatur=0.1,0.5"],  # codespell:ignore
            "unknown key pretrain.temperatur (did you mean temperature?)",  # codespell:ignore
        ),
        (["pretrain.temperature=0.1,warm"], "pretrain.temperature: must be a number; got 'warm'"),
        (["pretrain.temperature=0.1,-1"], "pretrain.temperature"),
        (["pretrain.temperature="], "a value is missing"),
        (["pretrain.temperature=0.1,,0.5"], "a value is missing"),
        (["pretrain.temperature=0.1,0.1"], "0.1 is given twice"),
        (["pretrain.temperature"], "not of the form key.path=v1,v2"),
        (["seed=1", "seed=2"], "seed is given twice"),
    ],
)
def test_bad_fields_and_values_are_refused_when_planned(tmp_path: Path, fields: list[str], told: str) -> None:
    with pytest.raises(RecipeError) as refused:
        plan_values(written(tmp_path), [], fields)
    assert told in str(refused.value)


def test_a_field_that_no_trained_stage_looks_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"finetune\.epochs has no effect before the stage finetune"):
        plan_values(written(tmp_path), [], ["finetune.epochs=1,2"], until="pretrain")


def test_unknown_and_repeated_transformations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'swirl' is not a transformation"):
        plan_augmentations(written(tmp_path), [], ["crop", "swirl"])
    with pytest.raises(RecipeError, match="crop is given twice"):
        plan_augmentations(written(tmp_path), [], ["crop", "crop"])


@pytest.mark.parametrize(
    ("field", "error"),
    [
        ("pretrain.batch_size=64,100000", DataError),
        ("pretrain.encoder.name=resnet10,resnet11", RecipeError),
        ("hardware.devices=1,2", RecipeError),
    ],
)
def test_a_cell_that_cannot_be_trained_is_found_before_the_first_is(tmp_path: Path, field: str, error: type) -> None:
    plan = plan_values(written(tmp_path), [], [field], until="pretrain")
    with pytest.raises(error):
        ablate(plan, tmp_path / "ablation")
    assert not list((tmp_path / "ablation").glob("cells/*"))


def test_a_method_with_one_view_has_no_other_branch(tmp_path: Path) -> None:
    recipe = written(
        tmp_path, pretrain={"method": "instdisc", "encoder": {"name": "resnet10", "width": 0.125}, "batch_size": 64},
        finetune__keep_projection_layers=0,
    )  # fmt: skip
    with pytest.raises(RecipeError, match=r"pretrain\.one_branch"):
        ablate(plan_augmentations(recipe, [], ["crop", "blur"]), tmp_path / "ablation")


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="neither empty nor an ablation"):
        ablate(plan_augmentations(written(tmp_path), [], ["crop"]), tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_one_pretraining_serves_every_label_budget_and_an_interrupted_ablation_goes_on(tmp_path: Path) -> None:
    plan = plan_values(written(tmp_path), [], ["data.labels=5,10"], until="finetune")
    folder, first = tmp_path / "ablation", Watched(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        ablate(plan, folder, on_cell=first)
    cells = [folder / "cells" / cell_name(plan, cell.values) for cell in plan.cells]
    assert [cell.exists() for cell in cells] == [True, False]

    again = Watched()
    result = ablate(plan, folder, on_cell=again)
    assert again.trained == [False, True]
    records = [Run(cell).require("pretrain") for cell in cells]
    assert records[0] == records[1]
    assert (cells[0] / "pretrain" / "tensorboard").exists()
    assert not (cells[1] / "pretrain" / "tensorboard").exists()  # copied, not trained
    assert Run(cells[0]).require("finetune").digest != Run(cells[1]).require("finetune").digest

    assert result.metrics() == [("encoder", "linear"), ("encoder", "knn"), ("teacher", "top1")]
    assert result.cells[0].scores[:2] == result.cells[1].scores[:2]  # one encoder, one measurement
    for cell in result.cells:
        record = Run(folder / cell.run).require("finetune")
        assert cell.value("teacher", "top1") == record.metrics["test_top1"]
        assert cell.value("encoder", "knn") == pytest.approx(Run(folder / cell.run).require("pretrain").metrics["knn"])

    complete = Watched()
    assert ablate(plan, folder, on_cell=complete).cells == result.cells
    assert complete.trained == [False, False]


def test_a_matrix_of_augmentations_and_a_cell_that_fails(tmp_path: Path) -> None:
    folder = tmp_path / "ablation"
    plan = plan_augmentations(written(tmp_path), [], ["crop", "noise"])
    result = ablate(plan, folder)
    assert {tuple(c.values) for c in result.cells} == {(a, b) for a in ("crop", "noise") for b in ("crop", "noise")}
    assert all(0 < (c.value("encoder", "linear") or 0) <= 1 for c in result.cells)
    assert (folder / "cells" / "crop+noise" / "pretrain" / "views.png").exists()
    weights = {Run(folder / c.run).require("pretrain").outputs["model.safetensors"] for c in result.cells}
    assert len(weights) == 4  # each branch trains another encoder

    plan = plan_values(written(tmp_path), [], ["pretrain.optimizer.lr=1e30,0.1"])
    result = ablate(plan, folder)
    assert "the loss is" in (result.cells[0].error or "")
    assert not result.cells[0].scores
    assert result.cells[1].value("encoder", "linear") is not None


def test_machines_that_share_a_storage_train_each_cell_once(tmp_path: Path) -> None:
    """Two folders, as on two machines: the second has a part of the cells trained by the first, and lists them in order."""
    recipe, storage = written(tmp_path), str(tmp_path / "shared.db")
    plan = plan_values(recipe, [], ["seed=3,1"], "pretrain")
    stopped = Watched(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        ablate(plan, tmp_path / "one", storage=storage, on_cell=stopped)
    watched = Watched()
    done = ablate(plan, tmp_path / "two", storage=storage, on_cell=watched)
    assert stopped.trained == [True]
    assert sorted(watched.trained) == [False, True]
    assert [cell.values for cell in done.cells] == [["3"], ["1"]]
    trained = [{path.name for path in (tmp_path / name / "cells").iterdir()} for name in ("one", "two")]
    assert trained == [{"seed=3"}, {"seed=1"}]
    again = ablate(plan, tmp_path / "three", storage=storage)
    assert again == done
    assert not list((tmp_path / "three" / "cells").iterdir())
