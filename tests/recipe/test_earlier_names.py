"""Recipes with the names from before American spelling: they are accepted and shown in today's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekit import recipe as recipes
from edgekit.cli import init, schema
from edgekit.errors import RecipeError
from edgekit.recipe import Augmentation, DataConfig, Recipe
from edgekit.spelling import KEYS, VALUES
from tests.helpers.click_runner import invoke
from tests.helpers.earlier_names import with_earlier_names

TODAY: dict[str, Any] = {
    "data": {"labeled": "photos/train", "pool": "photos/pool", "test": 0.3},
    "pretrain": {
        "augmentation": {"gray": 0.1},
        "projection": {"normalize_output": True},
        "one_branch": ["crop", "color", "gray"],
    },
    "finetune": {"augmentation": {"gray": 0.3}, "consistency": {"augmentation": {"gray": 0.4}}},
    "distill": {"images": "labeled", "labeled_weight": 0.5},
    "supervised": {"augmentation": {"gray": 0.2}},
}
EARLIER = with_earlier_names(TODAY)
# What earlier versions called otherwise, as it stands in YAML or JSON: keys and the values of `VALUES`.
GONE = {*KEYS, *(old for names in VALUES.values() for old in names)}


def words(text: str) -> set[str]:
    """Whatever in a YAML or JSON text may be a key or a value: its words, without their marks."""
    return {word.strip("\"',:[]{}`()") for word in text.split()}


def test_the_earlier_recipe_differs() -> None:
    assert {"labelled", "labelled_weight", "grey", "normalise_output", "colour"} <= words(
        yaml.safe_dump(EARLIER)
    )  # codespell:ignore


def test_earlier_names_are_accepted_in_a_file_and_in_a_dictionary(tmp_path: Path) -> None:
    expected = recipes.parse(TODAY)
    assert expected.distill.images == "labeled"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(EARLIER))
    assert recipes.load(path) == expected
    assert Recipe.read(path) == expected
    assert Recipe.read(EARLIER) == expected
    assert recipes.parse(EARLIER) == expected


def test_a_default_that_follows_from_a_key_follows_from_its_earlier_name() -> None:
    recipe = Recipe.read({"data": {"labelled": "torchvision:CIFAR10"}})  # codespell:ignore
    assert recipe.data.test == "torchvision:CIFAR10"


@pytest.mark.parametrize(
    ("override", "where", "value"),
    [
        ("data.labelled=photos", "data.labeled", "photos"),  # codespell:ignore
        ("pretrain.augmentation.grey=0.7", "pretrain.augmentation.gray", 0.7),
        ("pretrain.projection.normalise_output=true", "pretrain.projection.normalize_output", True),
        ("distill.labelled_weight=0.25", "distill.labeled_weight", 0.25),  # codespell:ignore
        ("distill.images=labelled", "distill.images", "labeled"),  # codespell:ignore
        ("distill.images=unlabelled", "distill.images", "unlabeled"),  # codespell:ignore
        (
            "pretrain.one_branch=[colour, grey, blur]",
            "pretrain.one_branch",
            ["color", "gray", "blur"],
        ),  # codespell:ignore
    ],
)
def test_earlier_names_are_accepted_as_overrides(tmp_path: Path, override: str, where: str, value: object) -> None:
    path = tmp_path / "recipe.yaml"
    key, _, text = override.partition("=")
    for content in ({"data": {"labeled": "digits"}}, EARLIER, TODAY):
        path.write_text(yaml.safe_dump(content))
        for overrides in ([override], {key: yaml.safe_load(text)}):
            found: Any = recipes.load(path, overrides)  # type: ignore[arg-type]
            for name in where.split("."):
                found = getattr(found, name)
            assert found == value


def test_a_part_that_is_made_by_itself_takes_earlier_names() -> None:
    assert DataConfig.model_validate({"labelled": "photos"}) == DataConfig(labeled="photos")  # codespell:ignore
    assert Augmentation.model_validate({"grey": 0.5}) == Augmentation(gray=0.5)


def test_a_recipe_is_written_with_todays_names_only(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    recipe = Recipe.read(EARLIER)
    recipe.write(path)
    assert not GONE & words(path.read_text())
    assert Recipe.read(path) == recipe


def test_init_and_schema_show_todays_names_only() -> None:
    for command, arguments in ((schema.command, ["recipe"]), (init.command, ["digits", "--no-measure"])):
        outcome = invoke(command, arguments)
        assert "labeled" in words(outcome.output)
        assert not (GONE - {"way"}) & words(outcome.output)  # a word of English too


@pytest.mark.parametrize(
    ("content", "key", "earlier"),
    [
        ("data: {labelled: digits, labeled: digits}", "data.labeled", "labelled"),  # codespell:ignore
        (
            "distill: {labeled_weight: 0.1, labelled_weight: 0.1}",
            "distill.labeled_weight",
            "labelled_weight",
        ),  # codespell:ignore
        ("pretrain: {augmentation: {gray: 0, grey: 0}}", "pretrain.augmentation.gray", "grey"),
        (
            "pretrain: {projection: {normalise_output: true, normalize_output: true}}",
            "pretrain.projection.normalize_output",
            "normalise_output",
        ),
    ],
)
def test_both_names_of_a_key_are_refused_in_one_line(tmp_path: Path, content: str, key: str, earlier: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    for read in (lambda: recipes.load(path), lambda: Recipe.read(yaml.safe_load(content))):
        with pytest.raises(RecipeError) as refused:
            read()
        assert str(refused.value).endswith(
            f"{key} is given twice: {earlier} is its earlier name; keep {key.rsplit('.', maxsplit=1)[-1]}"
        )
        assert "\n" not in str(refused.value)
