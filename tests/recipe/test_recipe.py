"""The recipe: what is accepted, and what is said about what is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from edgekit import recipe as recipes
from edgekit.errors import RecipeError
from edgekit.recipe import METHODS, Augmentation, DataConfig, Recipe


def parse(text: str) -> Recipe:
    return recipes.parse(recipes.read_yaml(text) or {}, where="r.yaml")


def error(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith("r.yaml: ")
    assert "\n" not in message
    return message


def load(tmp_path: Path, text: str | bytes, *overrides: str) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return recipes.load(path, ["data.labeled=digits", *overrides])


def test_a_recipe_of_empty_groups_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "{}") == load(tmp_path, "data:\npretrain:\n") == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "data names no images (write data: {labeled: FOLDER}"),
        ("data:\nseed: 1\n", "data names no images"),
        ("data: {labels: 5, normal: null, pool: null}", "data names no images"),
        ("data: {pool: photos}", "data.pool is photos, but data.labeled is missing (name the labeled images, or write"),
        ("data: {labled: photos}", "unknown key data.labled (did you mean labeled, "),  # codespell:ignore
    ],
)
def test_a_recipe_says_which_images_it_is_about(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        recipes.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    with pytest.raises(RecipeError) as caught:
        Recipe.read(yaml.safe_load(text))
    assert str(caught.value).startswith(f"recipe: {message}")


@pytest.mark.parametrize("text", ["labeled: digits", "labeled: null, pool: photos", "labelled: photos"])
def test_a_recipe_that_names_its_images_is_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"data: {{{text}}}")
    assert recipes.load(path) == recipes.recipe_of(recipes.load(path))


def test_what_a_group_leaves_out_is_that_stage_s_default_and_not_another_s() -> None:
    recipe = parse("distill: {optimizer: {lr: 0.1}, student: {width: 0.25}}\nfinetune: {augmentation: {flip: 0}}")
    default = Recipe()
    assert recipe.distill.optimizer == default.distill.optimizer.model_copy(update={"lr": 0.1})
    assert recipe.distill.optimizer.warmup == 0.05  # Optimizer's own default is 0
    assert recipe.distill.student.name == default.distill.student.name
    assert recipe.finetune.augmentation == default.finetune.augmentation.model_copy(update={"flip": 0})
    assert recipe.finetune.augmentation.jitter == 0  # Augmentation's own default is 0.8
    assert recipe.pretrain == default.pretrain


@pytest.mark.parametrize(
    ("student", "width"),
    [
        ("{}", 0.5),
        ("{name: resnet10}", 0.5),
        ("{name: 'timm:mobileone_s0'}", 1.0),
        ("{name: mobilenet_v3_small}", 1.0),
        ("{name: resnet10, width: 0.125}", 0.125),
    ],
)
def test_a_student_without_width_multiplier_is_taken_whole(student: str, width: float) -> None:
    assert parse(f"distill: {{student: {student}}}").distill.student.width == width


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dta: {}", "unknown key dta (did you mean data?)"),
        (
            "data: {lables: 1}",  # codespell:ignore
            "unknown key data.lables (did you mean labels, labeled or label_seed?)",  # codespell:ignore
        ),
        ("pretrain: {encoder: {nam: x}}", "unknown key pretrain.encoder.nam (did you mean name?)"),  # codespell:ignore
        (
            "pretrain: {encoder: {zzz: x}}",
            "unknown key pretrain.encoder.zzz (accepted: name, width, stem, selective_kernels, patch_size, weights, "
            "weights_key, mean, std, interpolate_positions, channels)",
        ),
        ("pretrain: {epochs:3}", "unknown key pretrain.epochs:3 (write a space after the colon: epochs: 3)"),
        ("hardware: {presicion: fp32}", "unknown key hardware.presicion (did you mean precision?)"),  # codespell:ignore
    ],
)
def test_a_misspelled_key_is_named_with_the_nearest_that_there_are(text: str, message: str) -> None:
    assert message in error(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: -1", "seed: must be greater than or equal to 0; got -1"),
        ("schema: 2", "schema: must be 1; got 2"),
        ("name: a b", "name: must be letters, digits, dots, dashes and underscores"),
        ("name: 3", "name: must be text; got 3"),
        (
            "data: {image_size: 32.5}",
            "data.image_size: must be a whole number, or [height, width], such as [96, 128]; got 32.5",
        ),
        (
            "data: {image_size: big}",
            "data.image_size: must be a whole number, or [height, width], such as [96, 128]; got 'big'",
        ),
        (
            "data: {image_size: 96x128}",
            "data.image_size: must be a whole number, or [height, width], such as [96, 128]; got '96x128'",
        ),
        (
            "data: {image_size: [96]}",
            "data.image_size: must be a whole number, or [height, width], such as [96, 128]; got [96]",
        ),
        (
            "data: {image_size: [96, 96, 3]}",
            "data.image_size: must be a whole number, or [height, width], such as [96, 128]; got [96, 96, 3]",
        ),
        (
            "data: {image_size: [96, 12.5]}",
            "data.image_size: must be a whole number, or [height, width], such as [96, 128]; got [96, 12.5]",
        ),
        (
            "data: {image_size: [0, 5]}",
            "data.image_size: must be [height, width], such as [96, 128]: both from 4 to 1024 pixels; got [0, 5]",
        ),
        (
            "data: {image_size: [64, 2000]}",
            "data.image_size: must be [height, width], such as [96, 128]: both from 4 to 1024 pixels; got [64, 2000]",
        ),
        ("data: {image_size: yes}", "data.image_size must not be true"),
        (
            "data: {image_size: [96, 128], resize_to: 90}",
            "data.resize_to (90) must be at least the shorter side of image_size (96)",
        ),
        ("data: {image_size: 2}", "data.image_size: must be greater than or equal to 4; got 2"),
        ("data: {fit: cropp}", "data.fit: must be 'crop' or 'stretch'; got 'cropp'"),
        ("data: {mean: .nan}", "data.mean: must be a finite number; got nan"),
        ("data: {std: 0}", "data.std: must be greater than 0; got 0"),
        ("data: {probe: x}", "data.probe: must be a number; got 'x'"),
        ("name: no", "name must not be false (YAML reads yes, no, on and off so: put text in quotes), accepted"),
        ("data: {probe: no}", "data.probe must not be false, accepted"),
        ("data: {labels: yes}", "data.labels must not be true, accepted: label budget: a fraction"),
        (
            "data: {labels: [1]}",
            "data.labels: accepted: label budget: a fraction (0.01), a count per class (20), {per_class: 20, at_most: true}",
        ),
        ("data: {labels: 0}", "data.labels (0) must be at least 1 image per class"),
        ("data: {labels: 1.5}", "data.labels (1.5) must be a fraction in (0, 1]"),
        ("data: {labels: ''}", "data.labels: accepted: label budget"),
        ("data: {labeled: ''}", "data.labeled: must not be empty"),
        ("data: {labeled: 12}", "data.labeled: must be text; got 12"),
        (
            "data: {test: 1.5}",
            "data.test: accepted: test images: anything that `labeled` accepts, or the share of each class of `labeled` that is held out",
        ),
        ("data: 3", "data: must be a group of keys (labeled, pool, normal, test,"),
        (
            "pretrain: {encoder: resnet18}",
            "pretrain.encoder: must be a group of keys (name, width, stem, selective_kernels, patch_size, weights, "
            "weights_key, mean, std, interpolate_positions, channels); got 'resnet18'",
        ),
        ("pretrain: {projection: {layers: 4}}", "pretrain.projection.layers is 4, accepted: 2 (SimCLR v1) or 3 (v2)"),
        ("pretrain: {method: bylo}", "pretrain.method: unknown 'bylo' (did you mean byol?)"),
        ("pretrain: {augmentation: {crop_scale: 0.5}}", "crop_scale: must be two numbers, low and high"),
        ("pretrain: {augmentation: {crop_scale: [0.5]}}", "crop_scale: must be two numbers, low and high"),
        ("pretrain: {augmentation: {crop_scale: [0.1, 0.5, 1]}}", "crop_scale: must be two numbers, low and high"),
        ("supervised: {enabled: maybe}", "supervised.enabled: must be true or false; got 'maybe'"),
        ("hardware: {threads: 0}", "hardware.threads: must be greater than or equal to 1; got 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_is_accepted(text: str, message: str) -> None:
    assert message in error(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("finetune: {keep_projection_layers: 3}", "keep_projection_layers is 3, but the projection head has 3 layers"),
        (
            "{finetune: {keep_projection_layers: 2}, pretrain: {projection: {layers: 2}}}",
            "not all can be kept: accepted: 0 to 1",
        ),
        (
            "pretrain: {epochs: 10, optimizer: {warmup_epochs: 10}}",
            "pretrain.optimizer.warmup_epochs (10) must be less than pretrain.epochs (10)",
        ),
        (
            "supervised: {epochs: 3, optimizer: {warmup_epochs: 5}}",
            "supervised.optimizer.warmup_epochs (5) must be less than supervised.epochs (3)",
        ),
        ("data: {resize_to: 16}", "data.resize_to (16) must be at least image_size (32)"),
        ("data: {test: 0.5, probe: 0.5}", "data.test (0.5) and probe (0.5) leave no images to train on"),
        (
            "pretrain: {augmentation: {crop_scale: [0.5, 0.1]}}",
            "pretrain.augmentation.crop_scale [0.5, 0.1] must be two shares",
        ),
        (
            "pretrain: {augmentation: {crop_ratio: [0, 1]}}",
            "pretrain.augmentation.crop_ratio [0.0, 1.0] must be two ratios",
        ),
    ],
)
def test_an_impossible_combination_names_the_keys(text: str, message: str) -> None:
    assert message in error(text)


def test_all_that_is_wrong_is_said_at_once() -> None:
    message = error("dta: 1\nseed: x\ndata: {image_size: 1}")
    assert all(part in message for part in ("unknown key dta", "seed: must be", "data.image_size: must be"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "not valid YAML at line 1"),
        ("seed: 1\n\tname: x", "not valid YAML at line 2"),
        ("seed: 1\nname: x\nseed: 2\n", "not valid YAML at line 3, column 1: the key seed is given twice"),
        ("data: {labels: 1, labels: 2}", "the key labels is given twice"),
        ("- 1", "a recipe must be a mapping of keys, not list"),
        ("hello", "a recipe must be a mapping of keys, not str"),
        ("", "the recipe is empty (write one with `edgekit init FOLDER > recipe.yaml`)"),
        ("# nothing\n", "the recipe is empty"),
        ("---\n", "the recipe is empty"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
        ("data: !!python/name:os.system", "not valid YAML"),
        (b"name: \xff", "cannot be read"),
    ],
)
def test_what_is_no_recipe_says_where(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, content)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/r.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no such recipe .*edgekit init"):
        recipes.load(tmp_path / "nope.yaml")
    with pytest.raises(
        RecipeError, match=r"a folder, not a recipe \(write a recipe for it with `edgekit init .* > recipe\.yaml`"
    ):
        recipes.load(tmp_path)


def test_a_run_in_place_of_its_recipe_names_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {labeled: digits}")
    hint = re.escape(f"(give the recipe in it, for example `edgekit train {recipe}`)")
    with pytest.raises(RecipeError, match=f"a folder, not a recipe {hint}"):
        recipes.load(tmp_path)
    stage = tmp_path / "data" / "stage.json"
    stage.parent.mkdir()
    stage.touch()
    with pytest.raises(RecipeError, match=f"a run, not a recipe {hint}"):
        recipes.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("1.5E+1", 15.0), ("2", 2.0), ("0.5", 0.5), (".5e1", 5.0)]
)
def test_numbers_may_have_an_exponent(tmp_path: Path, text: str, value: float) -> None:
    assert load(tmp_path, f"pretrain: {{optimizer: {{lr: {text}}}}}").pretrain.optimizer.lr == value
    assert load(tmp_path, "{}", f"pretrain.optimizer.lr={text}").pretrain.optimizer.lr == value


def test_a_budget_with_an_exponent_is_a_fraction_and_not_a_file(tmp_path: Path) -> None:
    assert load(tmp_path, "data: {labels: 1e-2}").data.labels == 0.01
    assert load(tmp_path, "data: {labels: '1e-2'}").data.labels == "1e-2"


@pytest.mark.parametrize(
    ("budget", "value"), [("0.01", 0.01), ("1.0", 1.0), ("1", 1), ("20", 20), ("labels.csv", "labels.csv")]
)
def test_a_budget_keeps_its_kind(budget: str, value: Any) -> None:
    labels = parse(f"data: {{labels: {budget}}}").data.labels
    assert labels == value
    assert type(labels) is type(value)


def test_overrides_go_over_the_file_and_may_make_groups(tmp_path: Path) -> None:
    recipe = load(
        tmp_path, "seed: 1\ndata: {labels: 5}\nfinetune:\n", "seed=2", "pretrain.epochs=20", "data.test=exam", "finetune.epochs=3",
        "pretrain.augmentation.crop_scale=[0.2, 1]", "seed=3", "data.pool=a=b",
    )  # fmt: skip
    assert (recipe.seed, recipe.data.labels, recipe.pretrain.epochs, recipe.data.test) == (3, 5, 20, "exam")
    assert (recipe.finetune.epochs, recipe.pretrain.augmentation.crop_scale) == (3, (0.2, 1.0))
    assert recipe.data.pool == "a=b"
    assert load(tmp_path, "data: {pool: x}", "data.pool=null").data.pool is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set seed: not of the form key.path=value (write it like --set pretrain.epochs=20)"),
        ("=3", "--set =3: not of the form"),
        ("seed.x=3", "--set seed.x=3: seed is a value, not a group of keys"),
        ("seed=[1", "--set seed=[1: the value is not valid YAML"),
        ("sed=3", "unknown key sed (did you mean seed?)"),
        ("pretrain.epoch=3", "unknown key pretrain.epoch (did you mean epochs?)"),
        ("data.labels=", "data.labels: accepted: label budget"),
    ],
)
def test_a_wrong_override_is_one_line(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, "seed: 1", override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_default_of_resize_to_follows_the_image_size() -> None:
    assert DataConfig(image_size=32).preprocessing().resize_to == 32
    assert DataConfig(image_size=64).preprocessing().resize_to == 64
    assert DataConfig(image_size=224).preprocessing().resize_to == 256
    assert DataConfig(image_size=224, resize_to=240).preprocessing().resize_to == 240


def test_the_defaults_of_the_augmentation_follow_the_image_size_and_never_a_given_value() -> None:
    small, large = Augmentation().at(32), Augmentation().at(224)
    assert (small.strength, small.blur, large.strength, large.blur) == (0.5, 0.0, 1.0, 0.5)
    given_values = Augmentation(strength=0.1, blur=0.2)
    assert given_values.at(32) == given_values.at(224) == given_values


def test_the_report_names_each_method_as_its_paper_does() -> None:
    assert {name: method.title for name, method in METHODS.items()} == {
        "simclr": "SimCLR", "moco": "MoCo", "instdisc": "InstDisc", "byol": "BYOL", "simsiam": "SimSiam",
        "byol+gsg": "BYOL + GSG", "simsiam+gsg": "SimSiam + GSG", "triplet": "Triplet",
        "distill": "Distillation of a pretrained encoder",
    }  # fmt: skip


def test_every_key_has_a_description_or_speaks_for_itself() -> None:
    plain = {"interpolation", "std", "epochs", "batch_size", "optimizer", "augmentation", "encoder", "projection", "student",
             "label_smoothing", "enabled", "accelerator", "name", "warmup_epochs", "data", "pretrain", "finetune", "distill",
             "supervised", "anomaly", "hardware", "monitor"}  # fmt: skip

    def undescribed(model: type[BaseModel]) -> set[str]:
        found = set()
        for name, field in model.model_fields.items():
            found |= {name} if not field.description else set()
            if (
                get_origin(field.annotation) is None
                and isinstance(field.annotation, type)
                and issubclass(field.annotation, BaseModel)
            ):
                found |= undescribed(field.annotation)
        return found

    assert undescribed(Recipe) <= plain


_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
_probability = st.floats(0, 1)
_augmentation = st.fixed_dictionaries(
    {},
    optional={
        "flip": _probability,
        "blur": st.none() | _probability,
        "strength": st.none() | st.floats(0, 2),
        "crop_scale": st.tuples(st.floats(0.01, 0.4), st.floats(0.4, 1)).map(list),
    },
)
_recipes = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,9}\Z"),
        "seed": st.integers(0, 2**63),
        "data": st.fixed_dictionaries(
            {},
            optional={
                "labeled": _text,
                "pool": st.none() | _text,
                "test": _text | st.floats(0.01, 0.5),
                "probe": st.floats(0, 0.4),
                "labels": st.integers(1, 10**6)
                | st.floats(0, 1, exclude_min=True)
                | _text
                | st.fixed_dictionaries({"per_class": st.integers(1, 99)}, optional={"at_most": st.booleans()}),
                "image_size": st.integers(4, 512),
                "resize_to": st.none() | st.integers(512, 2048),
                "mean": st.floats(allow_nan=False, allow_infinity=False),
            },
        ),
        "pretrain": st.fixed_dictionaries(
            {}, optional={"augmentation": _augmentation, "epochs": st.integers(1, 1000) | st.just("auto")}
        ),
        "distill": st.fixed_dictionaries(
            {}, optional={"optimizer": st.fixed_dictionaries({}, optional={"lr": st.floats(1e-12, 1e12)})}
        ),
        "hardware": st.fixed_dictionaries({}, optional={"threads": st.none() | st.integers(1, 64)}),
    },
)


@given(_recipes)
def test_what_is_dumped_is_read_back_equal(content: dict[str, Any]) -> None:
    recipe = recipes.parse(content)
    again = recipes.parse(recipes.read_yaml(recipes.dump(recipe)))
    assert again == recipe
    assert type(again.data.labels) is type(recipe.data.labels)
    assert type(again.data.test) is type(recipe.data.test)
    assert recipes.dump(again) == recipes.dump(recipe)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | _text,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["data", "pretrain", "encoder", "labels", "test", "augmentation", "crop_scale", "x", "name"]),
                        inner, max_size=4)))  # fmt: skip
def test_whatever_stands_in_it_a_recipe_is_read_or_refused_in_one_line(content: Any) -> None:
    if not isinstance(content, dict):
        content = {"data": content}
    try:
        recipes.parse(content)
    except RecipeError as problem:
        assert "\n" not in str(problem)  # noqa: PT017 - which of the two happens is not known


def test_a_dump_can_be_edited_by_other_yaml_tools() -> None:
    assert yaml.safe_load(recipes.dump(Recipe())) == Recipe().model_dump(mode="json", by_alias=True)
