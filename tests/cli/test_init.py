"""`edgekit init`: the recipe that it prints is valid, fits the folder, and trains on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result
from PIL import Image

from edgekit import recipe as recipes
from edgekit.cli.init import Time, command
from edgekit.data.splits import load_splits
from edgekit.errors import EdgekitError
from edgekit.recipe import Architecture, LabelCount
from edgekit.sizes import ImageSize
from tests.helpers.click_runner import invoke
from tests.helpers.image_folders import class_folders, picture, save


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(tmp_path)


def init(*arguments: str, measure: bool = False) -> Result:
    options = [] if measure else ["--no-measure"]
    return invoke(command, [*options, *arguments])


def recipe_for(*arguments: str) -> recipes.Recipe:
    Path("recipe.yaml").write_text(init(*arguments).stdout, encoding="utf-8")
    return recipes.load("recipe.yaml")


def test_class_folders_alone() -> None:
    class_folders(Path("photos"), {"cat": 20, "dog": 20})
    recipe = recipe_for("photos/")
    assert recipe.name == "photos"
    assert (recipe.data.labeled, recipe.data.test, recipe.data.pool) == ("photos", 0.2, None)
    assert (recipe.data.probe, recipe.data.labels) == (0.1, 1.0)
    splits = load_splits(recipe.data)
    assert splits.classes == ["cat", "dog"]
    assert len(splits.test) == 8


def test_a_recipe_for_recognition_says_so_and_keeps_the_geometry() -> None:
    class_folders(Path("photos"), {"cat": 20, "dog": 20})
    recipe, usual = recipe_for("photos/", "--task", "recognition"), recipe_for("photos/")
    assert (recipe.task, recipe.distill.loss, recipe.distill.mixup) == ("recognition", "feature", 0)
    assert (usual.task, usual.distill.loss) == ("classification", "kd")
    distill = recipe.distill.model_copy(update={"loss": "kd", "mixup": usual.distill.mixup})
    assert recipe.model_copy(update={"task": "classification", "distill": distill}) == usual


@pytest.mark.parametrize(
    ("train", "test", "pool"),
    [
        ("train", "test", "unlabeled"),
        ("Train", "val", "unlabeled"),
        ("labeled", "test", "pool"),
        ("train", None, "unlabeled"),
        ("train", "test", None),
    ],
)
def test_the_usual_folders_are_recognized(train: str, test: str | None, pool: str | None) -> None:
    class_folders(Path("set") / train, {"cat": 12, "dog": 12})
    if test:
        class_folders(Path("set") / test, {"cat": 2, "dog": 2})
    if pool:
        save(Path("set") / pool / "x.png")
        save(Path("set") / pool / "deep/y.png")
    recipe = recipe_for("set", "--name", "mine")
    assert recipe.name == "mine"
    assert recipe.data.labeled == f"set/{train}"
    assert recipe.data.test == (f"set/{test}" if test else 0.2)
    assert recipe.data.pool == (f"set/{pool}" if pool else None)
    splits = load_splits(recipe.data)
    assert len(splits.pool) == (2 if pool else len(splits.labeled))


def test_a_test_set_goes_before_a_validation_set() -> None:
    for part in ("train", "val", "test"):
        class_folders(Path("set") / part, {"cat": 2, "dog": 2})
    assert recipe_for("set").data.test == "set/test"


@pytest.mark.parametrize(
    ("side", "image_size", "temperature"),
    [(8, 32, 0.5), (28, 32, 0.5), (50, 64, 0.5), (100, 96, 0.1), (150, 128, 0.1), (700, 224, 0.1)],
)
def test_the_image_size_is_the_usual_one_that_is_nearest(side: int, image_size: int, temperature: float) -> None:
    for name in ("cat", "dog"):
        for i in range(3):
            save(Path("set") / name / f"{i}.png", picture(f"{name}{i}", side + 5, side))
        (Path("set") / name / "broken.png").write_bytes(b"x")
    recipe = recipe_for("set")
    assert recipe.data.image_size == image_size
    assert recipe.pretrain.temperature == temperature


@pytest.mark.parametrize(
    ("width", "height", "size", "said"),
    [
        (640, 480, [192, 256], "nearly all are 4:3: this size keeps that shape"),
        (480, 640, [256, 192], "3:4"),
        (384, 216, [160, 288], "16:9"),
        (160, 120, [112, 144], "4:3: this size"),
        (64, 48, [56, 72], "4:3"),
        (200, 80, [64, 160], "2.51:1"),
        (
            230,
            200,
            224,
            "a side, or [height, width]; the median of the shorter side of the images is 200\n",
        ),  # nearly square
        (900, 200, 224, "is 200\n"),  # too long
        (24, 18, 32, "is 18\n"),  # too small to have a shape
    ],
)
def test_images_of_one_shape_keep_it(width: int, height: int, size: Any, said: str) -> None:
    for i in range(6):
        save(Path("frames") / "ab"[i % 2] / f"{i}.png", picture(str(i), width + i % 3, height))
    result = init("frames")
    Path("recipe.yaml").write_text(result.stdout, encoding="utf-8")
    assert recipes.load("recipe.yaml").data.image_size == ImageSize.of(size)
    line = next(line for line in result.stdout.splitlines(keepends=True) if line.startswith("  image_size:"))
    assert said in line


def test_images_of_several_shapes_are_cropped_to_squares() -> None:
    for i in range(8):
        save(Path("photos") / "ab"[i % 2] / f"{i}.png", picture(str(i), *((160, 120) if i % 4 else (120, 160))))
    assert recipe_for("photos").data.image_size == 128
    for i in range(8, 40):  # two of 40: nearly all have one shape
        save(Path("photos") / "ab"[i % 2] / f"{i}.png", picture(str(i), 160, 120))
    assert recipe_for("photos").data.image_size == ImageSize(112, 144)


def test_photographs_on_their_side_count_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    for i in range(6):
        save(Path("phone") / "ab"[i % 2] / f"{i}.jpg", picture(str(i), 160, 120), exif=exif)
    assert recipe_for("phone").data.image_size == ImageSize(144, 112)


@pytest.mark.parametrize("count", [2, 5, 9, 40, 300])
def test_batches_are_not_larger_than_the_sets_that_they_are_drawn_from(count: int) -> None:
    class_folders(Path("set"), {"cat": count, "dog": count})
    recipe = recipe_for("set")
    splits = load_splits(recipe.data)
    assert recipe.pretrain.batch_size <= len(splits.pool)
    assert recipe.distill.batch_size <= len(splits.pool)


def test_digits_are_neither_flipped_nor_colored() -> None:
    recipe = recipe_for("digits")
    assert (recipe.name, recipe.data.labeled, recipe.data.image_size) == ("digits", "digits", 16)
    for stage in (recipe.pretrain, recipe.finetune, recipe.distill, recipe.supervised):
        assert (stage.augmentation.flip, stage.augmentation.jitter, stage.augmentation.gray) == (0, 0, 0)
    assert len(load_splits(recipe.data).classes) == 10


def test_every_value_has_a_comment_or_a_name_that_says_it() -> None:
    lines = init("digits").stdout.splitlines()
    values = [line for line in lines if ":" in line and not line.startswith("#")]
    commented = [line for line in values if "#" in line]
    assert len(commented) >= 0.6 * len(values)
    data = lines[lines.index("data:") + 1 : lines.index("", lines.index("data:"))]
    assert all("#" in line for line in data)
    assert all(len(line) < 170 for line in lines)


@pytest.mark.parametrize("name", ["with space", "größe", "-dash", "no", "123", "1e3", 'quo"te', "a: b #c"])
def test_odd_folder_names_give_a_valid_recipe(name: str) -> None:
    class_folders(Path(name), {"cat": 2, "dog": 2})
    arguments = ("--", name) if name.startswith("-") else (name,)
    recipe = recipe_for(*arguments)
    assert recipe.data.labeled == name
    assert recipe.name


def test_an_absolute_folder_and_the_current_one(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 2, "dog": 2})
    assert recipe_for(str(tmp_path)).data.labeled == str(tmp_path)
    here = recipe_for(".")
    assert here.data.labeled == "."
    assert here.name == tmp_path.name
    assert load_splits(here.data).classes == ["cat", "dog"]


def _flat() -> None:
    save(Path("set/a.png"))
    save(Path("set/b.png"))


def _unlabeled() -> None:
    save(Path("set/unlabeled/a.png"))


def _mixed() -> None:
    class_folders(Path("set"), {"cat": 2, "unlabeled": 2})


def _other_classes() -> None:
    class_folders(Path("set/train"), {"cat": 2, "dog": 2})
    class_folders(Path("set/test"), {"cat": 2, "cow": 2})


def _broken() -> None:
    for name in ("cat", "dog"):
        save(Path("set") / name / "a.png").write_bytes(b"x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, "set: no such folder"),
        (lambda: Path("set").write_text("x"), "set: is not a folder"),
        (lambda: Path("set").mkdir(), "set: holds no images"),
        (_mixed, r"holds unlabeled/ and cat/.*move the class folders into set/train/"),
        (_other_classes, "only set/test has cow; only set/train has dog"),
        (lambda: class_folders(Path("set"), {"cat": 2}), "holds only one class"),
        (_broken, "no image can be read, of 2 sampled"),
    ],
)
def test_a_folder_of_no_use_is_one_clear_line(make: Any, message: str) -> None:
    make()
    with pytest.raises(EdgekitError, match=message) as caught:
        init("set")
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_name_that_no_run_can_have_is_refused() -> None:
    with pytest.raises(EdgekitError, match="name: must be letters, digits"):
        init("digits", "--name", "a/b")


def test_an_output_file_is_written_and_not_overwritten_without_force() -> None:
    result = init("digits", "--output", "new/mine.yaml")
    assert result.stdout == ""
    assert "edgekit train new/mine.yaml" in result.stderr
    assert recipes.load("new/mine.yaml").name == "digits"
    Path("new/mine.yaml").write_text("precious")
    with pytest.raises(EdgekitError, match=r"new/mine\.yaml: exists already .*--force"):
        init("digits", "--output", "new/mine.yaml")
    assert Path("new/mine.yaml").read_text() == "precious"
    init("digits", "--output", "new/mine.yaml", "--force")
    assert recipes.load("new/mine.yaml").name == "digits"


def test_the_command_line_prints_a_recipe_without_torch_and_errors_with_exit_code_2() -> None:
    class_folders(Path("photos"), {"cat": 2, "dog": 2})
    program = (
        "import sys; sys.argv = ['edgekit', 'init', sys.argv[1], '--no-measure']\n"
        "import atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        "from edgekit.cli.main import main; main()"
    )

    def run(folder: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, folder], capture_output=True, text=True, check=False, env=os.environ
        )

    good, bad = run("photos"), run("nope")
    assert (good.returncode, good.stderr) == (0, "False\n")
    assert 'labeled: "photos"' in good.stdout
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.splitlines()[0].startswith("error: nope: no such folder (")


@pytest.mark.parametrize(
    ("budget", "written"),
    [
        ("3", 3),
        ("0.1", 0.1),
        ("1.0", 1.0),
        ("{per_class: 3, at_most: true}", LabelCount(per_class=3, at_most=True)),
        ("15", LabelCount(per_class=15, at_most=True)),  # more than the smaller class has left beside test and probe
    ],
)
def test_a_budget_is_written_into_the_recipe(budget: str, written: Any) -> None:
    class_folders(Path("photos"), {"cat": 30, "dog": 20})
    recipe = recipe_for("photos", "--labels", budget)
    assert recipe.data.labels == written
    assert type(recipe.data.labels) is type(written)
    assert len(load_splits(recipe.data).labeled) >= 2
    assert recipe == recipe_for("photos").model_copy(update={"data": recipe.data})  # nothing else depends on the budget


def test_more_labels_than_a_class_has_are_named_and_trained_without_the_missing_ones() -> None:
    """Of 20 images 4 are for the test and 2 for the probe set, of 30 images 6 and 3."""
    class_folders(Path("photos"), {"cat": 30, "dog": 20})
    few = "--labels {}: the class dog has at most 14 images left outside the test and probe sets"
    for budget, note in (("12", ""), ("13", ""), ("14", ""), ("15", few), ("22", f"{few} (1 more class is short)")):
        done = init("photos", "--labels", budget)
        end = f"; a class with fewer than {budget} gives all that it has"
        assert done.stderr == (f"note: {note.format(budget)}{end}\n" if note else "")
        Path("recipe.yaml").write_text(done.stdout, encoding="utf-8")
        splits = load_splits(recipes.load("recipe.yaml").data)
        assert len(splits.labeled) == min(int(budget), 21) + min(int(budget), 14)
    assert init("photos", "--labels", "{per_class: 15, at_most: true}").stderr == ""


def test_a_number_of_labels_that_a_class_of_many_images_just_has_not_is_no_error_of_the_training() -> None:
    """210 of 300 images are left: the probe set is a share of all images, also of those in the test set."""
    class_folders(Path("photos"), {"cat": 300, "dog": 300})
    recipe = recipe_for("photos", "--labels", "212")
    assert recipe.data.labels == LabelCount(per_class=212, at_most=True)


@pytest.mark.parametrize("budget", ["0.95", "{per_class: 15}"])
def test_a_budget_that_no_training_can_have_is_refused_before_anything_is_measured(budget: str) -> None:
    class_folders(Path("photos"), {"cat": 30, "dog": 20})
    with pytest.raises(
        EdgekitError, match="the class dog has 14 training images outside the probe set, but the budget"
    ) as caught:
        init("photos", "--labels", budget, measure=True)
    assert str(caught.value).startswith(f"--labels {budget}: ")
    assert "give at most 14 per class" in str(caught.value)
    Path("recipe.yaml").write_text(init("photos").stdout.replace("labels: 1.0", f"labels: {budget}"), encoding="utf-8")
    with pytest.raises(
        EdgekitError, match="the class dog has 14 training images outside the probe set, but the budget"
    ):
        load_splits(recipes.load("recipe.yaml").data)


@pytest.mark.parametrize("budget", ["0", "1.5", "-1", "true", "null", "nothing.csv", "[1]", "{per_class: 0}", "a: [b"])
def test_a_budget_that_is_none_is_one_clear_line(budget: str) -> None:
    with pytest.raises(EdgekitError) as caught:
        init("digits", "--labels", budget)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("20m", 1200), ("1h30m", 5400), ("90s", 90), ("0.5h", 1800), ("1H", 3600)]
)
def test_times_in_words(text: str, seconds: float) -> None:
    assert Time().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0m", "20", "m", "-5m", "1d", "20 minutes", "9999999h", "infm"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a time: write it like 20m, 1h30m or 90s"):
        Time().convert(text, None, None)


def test_a_pile_takes_its_labels_from_a_file_alone() -> None:
    for i in range(20):
        save(Path(f"pile/{i}.png"), picture(str(i), 20, 20))
    with pytest.raises(EdgekitError, match="--labels 10: no labels can be drawn: pile has no classes"):
        init("pile", "--labels", "10")
    Path("some.csv").write_text("file,class\n0.png,a\n1.png,b\n")
    assert recipe_for("pile", "--labels", "some.csv").data.labels == "some.csv"


def test_a_pile_is_measured_as_far_as_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.train import planning

    for i in range(24):
        save(Path(f"pile/{i}.png"), picture(str(i), 20, 20))
    monkeypatch.setattr(
        planning,
        "candidate_networks",
        lambda side, aspect: [planning.PlannedNetwork(ImageSize(16, 16), Architecture(name="resnet10", width=0.125))],
    )
    Path("recipe.yaml").write_text(init("pile", "--time", "2h", measure=True).stdout, encoding="utf-8")
    recipe = recipes.load("recipe.yaml")
    assert isinstance(recipe.pretrain.epochs, int)
    assert (recipe.finetune.epochs, recipe.distill.epochs, recipe.supervised.epochs) == ("auto", "auto", "auto")


def test_a_measurement_that_is_forbidden_and_asked_for() -> None:
    with pytest.raises(EdgekitError, match="--time and --no-measure cannot be combined"):
        init("digits", "--time", "20m")


def test_without_pytorch_the_recipe_leaves_the_epochs_to_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(Path("photos"), {"cat": 20, "dog": 20})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = init("photos", measure=True)
    assert "nothing was measured" in result.stderr
    Path("recipe.yaml").write_text(result.stdout, encoding="utf-8")
    recipe = recipes.load("recipe.yaml")
    assert {getattr(recipe, stage).epochs for stage in ("pretrain", "finetune", "distill", "supervised")} == {"auto"}
    with pytest.raises(EdgekitError, match="--time needs PyTorch"):
        init("photos", "--time", "20m", measure=True)


def test_a_measured_recipe_is_valid_and_says_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.train import planning

    class_folders(Path("photos"), {"cat": 12, "dog": 12})
    monkeypatch.setattr(
        planning,
        "candidate_networks",
        lambda side, aspect: [planning.PlannedNetwork(ImageSize(16, 16), Architecture(name="resnet10", width=0.125))],
    )
    result = init("photos", "--labels", "2", "--time", "2h", measure=True)
    Path("recipe.yaml").write_text(result.stdout, encoding="utf-8")
    recipe = recipes.load("recipe.yaml")
    assert (recipe.data.image_size, recipe.pretrain.encoder.name, recipe.distill.student.width) == (
        16,
        "resnet10",
        0.25,
    )
    assert recipe.data.labels == 2
    assert isinstance(recipe.pretrain.epochs, int)
    assert isinstance(recipe.distill.epochs, int)
    assert recipe.finetune.epochs == recipe.supervised.epochs == "auto"
    assert "# For 2:00:00 on this machine" in result.stdout
    assert "Measured steps: pretrain" in result.stdout
    assert "the whole training should take" in result.stderr
    assert not list(Path().glob("runs"))


def test_a_recipe_for_recognition_of_digits_leaves_four_of_them_out() -> None:
    recipe = recipe_for("digits", "--task", "recognition")
    assert (recipe.name, recipe.task, recipe.data.labeled) == ("digits", "recognition", "digits:0-5")
    splits = load_splits(recipe.data)
    assert splits.classes == [*"012345"]
    assert {name[0] for name in [*splits.pool.names, *splits.test.names]} == {*"012345"}


@pytest.mark.parametrize("where", ["digits:", "digits:5", "digits:5-0", "digits:3-3", "digits:0-12"])
def test_what_is_no_range_of_digits(where: str) -> None:
    with pytest.raises(
        EdgekitError, match=rf"{where}: is not a range of at least two digits \(write it like digits:0-5\)"
    ):
        init(where)


def normal_images(root: Path, count: int, tests: bool = True) -> Path:
    for i in range(count):
        save(root / f"train/good/{i:03}.png", picture(f"n{i}", 70, 60))
    if tests:
        for kind in ("good", "dent"):
            save(root / f"test/{kind}/0.png", picture(kind, 70, 60))
    return root


def test_a_recipe_for_anomalies_is_valid_and_trains_on_the_folder() -> None:
    normal_images(Path("parts"), 100)
    shown = init("parts/", "--task", "anomaly").stdout
    recipe = recipe_for("parts/", "--task", "anomaly")
    assert (recipe.name, recipe.task, recipe.data.normal, recipe.data.image_size) == ("parts", "anomaly", "parts", 64)
    assert "test images: 1 normal, 1 anomalous (dent)" in shown
    assert (recipe.data.probe, recipe.data.fit) == (0.2, "stretch")
    splits = load_splits(recipe.data)
    assert len(splits.pool) == 80
    assert recipe.pretrain.batch_size <= 80
    lines = [line for line in shown.splitlines() if ":" in line and not line.startswith("#")]
    assert sum("#" in line for line in lines) >= 0.6 * len(lines)
    assert all(len(line) < 170 for line in shown.splitlines())


@pytest.mark.parametrize(("count", "probe"), [(10, 0.2), (64, 0.3), (190, 0.1), (1000, 0.1)])
def test_enough_normal_images_are_held_out_for_the_threshold(count: int, probe: float) -> None:
    normal_images(Path("parts"), count)
    assert recipe_for("parts", "--task", "anomaly").data.probe == probe


def test_textures_and_a_table_have_recipes_too() -> None:
    recipe = recipe_for("textures", "--task", "anomaly")
    assert (recipe.name, recipe.data.normal, recipe.data.image_size) == ("textures", "textures", 128)
    normal_images(Path("parts"), 10, tests=False)
    rows = "".join(f"parts/train/good/{i:03}.png,good\n" for i in range(10))
    Path("my parts.csv").write_text(f"file,label\n{rows}", encoding="utf-8")
    table = recipe_for("my parts.csv", "--task", "anomaly")
    assert (table.name, table.data.normal, table.data.test) == ("my-parts", "my parts.csv", 0.2)
    for i in range(3):
        save(Path(f"parts/validation/good/{i}.png"))
    assert recipe_for("parts", "--task", "anomaly").data.probe == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--labels", "3"), "--labels and --task anomaly cannot be combined"),
        (("--unlabeled",), "--unlabeled and --task anomaly cannot be combined"),
        (("--teacher", "timm:resnet18"), r"--teacher and --task anomaly cannot be combined \(name the encoder"),
    ],
)
def test_options_that_say_nothing_about_normal_images(arguments: tuple[str, ...], message: str) -> None:
    normal_images(Path("parts"), 3)
    with pytest.raises(EdgekitError, match=message):
        init("parts", "--task", "anomaly", *arguments)


def test_a_folder_with_defects_among_the_training_images_gets_no_recipe() -> None:
    save(normal_images(Path("parts"), 3) / "train/dent/1.png")
    with pytest.raises(EdgekitError, match="must hold normal images alone"):
        init("parts", "--task", "anomaly", "--output", "x.yaml")
    assert not Path("x.yaml").exists()
