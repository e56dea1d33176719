"""Candidates: the curated list, the user's own, and names that are folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekit.errors import RecipeError
from edgekit.models.encoders import build_encoder
from edgekit.recipe import Architecture, Recipe, parse
from edgekit.search.candidates import Candidate, chosen_candidates, curated
from edgekit.sizes import ImageSize

RECIPE: Recipe = parse({"data": {"image_size": 32, "resize_to": 40}})


def test_the_curated_list_is_long_and_every_name_is_known() -> None:
    listed = chosen_candidates(RECIPE)
    assert listed[0].architecture == RECIPE.distill.student
    assert len(listed) >= 30
    assert len({c.name for c in listed}) == len(listed)
    for name in {c.architecture.name for c in curated(32)}:
        if ":" in name:  # ResNets are edgekit's own, and quick to build
            build_encoder(Architecture(name=name), 32)
    assert len([c for c in curated(16) if ":" not in c.architecture.name]) >= 25, "for images below the others' stride"


def test_lists_stand_for_each_of_their_values(tmp_path: Path) -> None:
    file = tmp_path / "students.yaml"
    file.write_text("- timm:lcnet_050\n- {name: resnet10, image_size: 24}\n")
    listed = chosen_candidates(
        RECIPE, ["resnet18", "{name: resnet10, width: [0.25, 0.5], stem: [cifar, strided]}"], file, [32, 48]
    )
    assert [c.name for c in listed] == [
        "resnet18-32", "resnet18-48",
        "resnet10-w0.25-cifar-32", "resnet10-w0.25-strided-32", "resnet10-w0.5-cifar-32", "resnet10-w0.5-strided-32",
        "resnet10-w0.25-cifar-48", "resnet10-w0.25-strided-48", "resnet10-w0.5-cifar-48", "resnet10-w0.5-strided-48",
        "timm-lcnet_050-32", "timm-lcnet_050-48", "resnet10-24",
    ]  # fmt: skip


def test_a_candidate_in_a_recipe_changes_the_student_and_the_resolution_alone() -> None:
    candidate = Candidate(Architecture(name="resnet10", width=0.25), 64)
    changed = candidate.in_recipe(RECIPE)
    assert changed.distill.student == candidate.architecture
    assert (changed.data.image_size, changed.data.resize_to) == (64, 80)
    back = Candidate(RECIPE.distill.student, 32).in_recipe(changed)
    assert back == RECIPE


@pytest.mark.parametrize(
    ("student", "distill", "told"),
    [
        (
            "{name: resnet10, width: 0.25}",
            {"start": "encoder"},
            "candidate resnet10-w0.25-32: distill.start is encoder",
        ),
        ("timm:lcnet_050.ra2_in1k", {}, "add weights: pretrained, or remove .ra2_in1k"),
    ],
)
def test_a_student_that_the_recipe_does_not_allow_is_refused_before_it_is_measured(
    student: str, distill: dict[str, str], told: str
) -> None:
    network = {"name": "resnet18", "width": 0.5}
    recipe = parse({"pretrain": {"encoder": network}, "distill": {"student": network, **distill}})
    assert chosen_candidates(recipe, ["{name: resnet18, width: 0.5}"])
    with pytest.raises(RecipeError, match=re.escape(told)):
        chosen_candidates(recipe, [student])


def test_resolutions_may_have_any_shape() -> None:
    recipe = parse({"data": {"image_size": [48, 64], "resize_to": 60}})
    assert {c.image_size for c in chosen_candidates(recipe)} == {ImageSize(48, 64)}
    listed = chosen_candidates(recipe, ["{name: resnet10, image_size: [32, [24, 32]]}", "resnet14"])
    assert [c.name for c in listed] == ["resnet10-32", "resnet10-24x32", "resnet14-48x64"]
    smaller = listed[1].in_recipe(recipe).data
    assert (smaller.image_size, smaller.resize_to) == (ImageSize(24, 32), 30)
    assert len({c.family for c in listed}) == 3


def test_names_differ_wherever_candidates_do() -> None:
    kinds = [{}, {"width": 0.5}, {"stem": "cifar"}, {"weights": "a"}, {"weights": "b"}]
    names = {Candidate(Architecture(name="resnet50", **kind), size).name for kind in kinds for size in (32, 64)}
    assert len(names) == 10
    assert Candidate(Architecture(name="../x y"), 32).name == ".._x_y-32"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{name: resnet18, width: 99}", "width"),
        ("{name: resnet18, widht: 1}", "widht"),  # codespell:ignore
        ("{width: 1}", "not a candidate"),
        ("[resnet18]", "not a candidate"),
        ("{name: [", "not valid YAML"),
        ("{name: resnet18, image_size: 2}", "image_size 2 is not possible"),
        ("{name: resnet18, image_size: yes}", "image_size True"),
        ("{name: resnet18, image_size: [[32]]}", "image_size [32] is not possible"),
        ("{name: resnet18, image_size: [[32, 2]]}", "image_size [32, 2] is not possible"),
        ("{name: resnet18, image_size: 32x48}", "image_size 32x48 is not possible"),
        ("{name: resnet18, width: [0.5, 0.5, x]}", "width"),
    ],
)
def test_what_is_wrong_is_one_line(given: str, told: str) -> None:
    with pytest.raises(RecipeError) as error:
        chosen_candidates(RECIPE, [given])
    assert told in str(error.value)
    assert "--candidate" in str(error.value)


def test_a_file_that_holds_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        chosen_candidates(RECIPE, file=tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_text("name: resnet18")
    with pytest.raises(RecipeError, match="not a list of candidates"):
        chosen_candidates(RECIPE, file=tmp_path / "x.yaml")
    widths = ", ".join(str(0.125 + i / 1000) for i in range(1001))
    with pytest.raises(RecipeError, match="too many"):
        chosen_candidates(RECIPE, [f"{{name: resnet18, width: [{widths}]}}"])
