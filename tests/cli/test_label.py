"""`edgekit label suggest`: which images to label first, the page that labels them, and the training that goes on with them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from edgekit.cli.label import command
from edgekit.data.splits import load_splits
from edgekit.errors import DataError, EdgekitError
from edgekit.recipe import parse
from edgekit.report.label_page import LabelPage, write_label_page
from edgekit.run import Run
from edgekit.train.analysis.suggest import typical
from edgekit.train.stages.pipeline import train
from tests.helpers.click_runner import invoke
from tests.helpers.shapes import write_set

HOSTILE = "<img src=x onerror=\"document.title='owned'\">, \u2028"
RECIPE: dict[str, Any] = {
    "name": "pile",
    "data": {"labeled": None, "pool": "pile", "test": 0.2, "image_size": 16},
    "pretrain": {
        "encoder": {"name": "resnet10", "width": 0.125}, "projection": {"layers": 2, "output": 8}, "epochs": 1, "batch_size": 16,
        "optimizer": {"name": "adamw", "lr": 1e-3, "scale_lr": False, "warmup_epochs": 0},
    },
    "finetune": {"epochs": 1, "batch_size": 8},
    "distill": {
        "student": {"name": "resnet10", "width": 0.125}, "epochs": 1, "batch_size": 16,
        "optimizer": {"name": "adamw", "lr": 1e-3, "scale_lr": False, "warmup_epochs": 0},
    },
    "supervised": {"enabled": False},
}  # fmt: skip


def groups(sizes: list[int], spread: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Features around orthogonal centers, and the group of each."""
    rng = np.random.default_rng(0)
    belongs = np.repeat(np.arange(len(sizes)), sizes)
    centers = np.eye(len(sizes), 16)
    return (centers[belongs] + spread * rng.normal(size=(len(belongs), 16))).astype(np.float32), belongs


def test_every_group_gets_a_label_before_one_gets_two() -> None:
    features, belongs = groups([60, 30, 20, 10])
    chosen = typical(features, np.zeros(len(features), dtype=bool), 4, seed=0)
    assert sorted(belongs[chosen]) == [0, 1, 2, 3]


def test_groups_that_have_labels_wait() -> None:
    features, belongs = groups([40, 40, 40])
    labeled = np.zeros(len(features), dtype=bool)
    labeled[[0, 41]] = True
    assert belongs[typical(features, labeled, 1, seed=0)].tolist() == [2]


def test_typical_images_come_before_odd_ones() -> None:
    features, belongs = groups([50, 50])
    odd = np.flatnonzero(belongs == 0)[:5]
    features[odd] += 0.6 * np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    chosen = typical(features, np.zeros(100, dtype=bool), 2, seed=0)
    assert not set(chosen) & set(odd.tolist())


@pytest.mark.parametrize("count", [1, 7, 30, 100])
def test_each_image_is_chosen_once_and_none_that_has_a_label(count: int) -> None:
    features, _ = groups([10, 10, 10])
    labeled = np.arange(30) % 3 == 0
    chosen = typical(features, labeled, count, seed=0)
    assert len(chosen) == len(set(chosen)) == min(count, 20)
    assert not labeled[chosen].any()


def test_images_that_all_look_alike_are_no_error() -> None:
    assert len(typical(np.ones((6, 4), dtype=np.float32), np.zeros(6, dtype=bool), 3, seed=0)) == 3
    assert typical(np.ones((1, 4), dtype=np.float32), np.zeros(1, dtype=bool), 3, seed=0) == [0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pile of two kinds of images, and a run that is pretrained on it."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "pile").mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        pixels = rng.integers(0, 60, (16, 16, 3)) + (0 if i % 2 else 190)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "pile" / f"{i:02}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(folder)
        train(parse(RECIPE), Run(Path("runs/pile")))
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def label(*arguments: str) -> Result:
    return invoke(command, ["suggest", *arguments])


def test_without_labels_only_the_encoder_is_trained(place: Path) -> None:
    run = Run.open(place / "runs/pile")
    assert run.require("pretrain").metrics.keys() >= {"loss"}
    assert "knn" not in run.require("pretrain").metrics
    assert not run.stage_path("finetune").exists()


def test_suggestions_are_written_labeled_and_trained_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    result = json.loads(label("runs/pile", "--count", "8", "--test-count", "6", "--json").stdout)
    assert [i["use"] for i in result["images"]] == ["train"] * 8 + ["test"] * 6
    pool = load_splits(parse(RECIPE).data).pool.names
    assert all((i["file"] in pool) == (i["use"] == "train") for i in result["images"])
    with Path(result["files"]["suggestions"]).open() as stream:
        rows = list(csv.DictReader(stream))
    assert [r["file"] for r in rows] == [i["file"] for i in result["images"]]
    assert {r["class"] for r in rows} == {""}

    lines = [f"{r['file']},{'dark' if int(r['file'][:2]) % 2 else 'light'}" for r in rows]
    Path("labels.csv").write_text("\n".join(["file,class", *lines]) + "\n")
    recipe = parse(RECIPE | {"data": RECIPE["data"] | {"labels": "labels.csv"}})
    outcomes = {}
    train(recipe, Run(Path("runs/pile")), on_stage=lambda report: outcomes.update({report.stage: report.outcome}))
    assert outcomes == {"data": "done", "pretrain": "skipped", "finetune": "done", "distill": "done"}

    again = json.loads(label("runs/pile", "--count", "3", "--test-count", "8", "--json").stdout)
    assert again["labeled"] == 14
    assert [i["use"] for i in again["images"]] == ["train"] * 3 + ["test"] * 2
    assert not {i["file"] for i in again["images"]} & {r["file"] for r in rows}


def test_classes_that_somebody_filled_in_are_not_replaced(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    arguments = ("runs/pile", "--count", "4", "--test-count", "2", "--output", str(tmp_path))
    label(*arguments)
    file = tmp_path / "suggestions.csv"
    with pytest.raises(EdgekitError, match="is not a folder"):
        label("runs/pile", "--count", "4", "--output", str(file))
    filled = file.read_text().replace(",,train", ",mine,train", 1)
    file.write_text(filled)
    with pytest.raises(DataError, match=r"suggestions\.csv: would be replaced, but it holds 1 class that"):
        label(*arguments)
    assert file.read_text() == filled
    file.write_text(filled.replace("mine", ""))
    label(*arguments)


def test_images_with_several_classes_are_suggested_without_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of the labels names 20 of 60 images of the pool; what is filled in is not suggested again, nor lost."""
    monkeypatch.chdir(tmp_path)
    every = write_set(tmp_path, 60).read_text().splitlines()
    named, others = every[:21], every[21:]
    Path("labels.csv").write_text("\n".join(named) + "\n")
    recipe: dict[str, Any] = {
        **RECIPE, "name": "shapes", "task": "multilabel",
        "data": {"labeled": "labels.csv", "labels": 1.0, "pool": "images", "test": 0.2, "probe": 0.0, "image_size": 16},
    }  # fmt: skip
    train(parse(recipe), Run(Path("runs/shapes")), until="pretrain")
    arguments = ("runs/shapes", "--count", "8", "--test-count", "5")
    result = json.loads(label(*arguments, "--json").stdout)
    assert set(result["files"]) == {"suggestions"}
    assert not Path("runs/shapes/label/label.html").exists()
    assert result["labeled"] == 20
    chosen = [image["file"] for image in result["images"]]
    assert [image["use"] for image in result["images"]] == ["train"] * 8 + ["test"] * 5
    assert len(set(chosen)) == 13
    names = {line.split(",")[0].removeprefix("images/"): line for line in others}
    assert set(chosen) <= set(names)
    file = Path(result["files"]["suggestions"])
    assert file.read_text().splitlines() == [
        "file,classes,use",
        *(f"{i['file']},,{i['use']}" for i in result["images"]),
    ]

    filled = file.read_text().replace(f"{chosen[-1]},,", f"{chosen[-1]},bar;disc,")
    file.write_text(filled)
    fewer = ("runs/shapes", "--count", "2", "--test-count", "1")
    with pytest.raises(DataError, match="would be replaced, but it holds 1 class that") as caught:
        label(*fewer)
    assert "data.labeled" in (caught.value.hint or "")
    assert file.read_text() == filled
    Path("labels.csv").write_text("\n".join([*named, *(names[name] for name in chosen[:8])]) + "\n")
    Path("test.csv").write_text("\n".join([every[0], *(names[name] for name in chosen[8:])]) + "\n")
    tested = {**recipe, "data": {**recipe["data"], "test": "test.csv"}}
    train(parse(tested), Run(Path("runs/shapes")), until="pretrain")
    again = json.loads(label(*fewer, "--json").stdout)
    assert [image["use"] for image in again["images"]] == ["train"] * 2  # the test set has 5 images already
    assert not {image["file"] for image in again["images"]} & set(chosen)


def test_without_a_pool_no_image_with_several_classes_is_left_to_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.files import write_text
    from edgekit.recipe import dump

    monkeypatch.chdir(tmp_path)
    write_set(tmp_path, 12)
    Path("run").mkdir()
    recipe = parse({"task": "multilabel", "data": {"labeled": "labels.csv", "labels": 1.0}})
    write_text(Path("run/recipe.yaml"), dump(recipe))
    with pytest.raises(DataError, match=r"its images are those of labels\.csv, which have their classes") as caught:
        label("run")
    assert "data.pool" in (caught.value.hint or "")


def test_a_run_with_class_folders_is_refused(tmp_path: Path) -> None:
    from edgekit.files import write_text
    from edgekit.recipe import Recipe, dump

    run = tmp_path / "run"
    run.mkdir()
    write_text(run / "recipe.yaml", dump(Recipe()))
    with pytest.raises(EdgekitError, match=r"data\.labeled is digits") as caught:
        label(str(run))
    assert "data.labeled: null" in (caught.value.hint or "")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "label.html"
    images = [Image.fromarray(np.full((20 + 200 * (i % 2), 30, 3), 40 * i, np.uint8)) for i in range(4)]
    files = [HOSTILE, "</script><script>document.title='owned'</script>.png", "a, b.png", "plain.png"]
    write_label_page(LabelPage("pile", files, images, 3, 1, {"old.png": "cat"}), path)
    return path


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_labels_with_the_keyboard_remembers_and_saves_a_csv(
    browser: Any, page: Path, tmp_path: Path, width: int
) -> None:
    context = browser.new_context(accept_downloads=True, viewport={"width": width, "height": 800})
    tab, complaints = context.new_page(), []
    tab.set_default_timeout(0)
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or complaints.append(r.url))
    tab.goto(page.resolve().as_uri())
    tab.keyboard.press("1")  # cat, which the file knows already
    tab.keyboard.press("/")
    tab.fill("#class", 'dog "big", brown')
    tab.press("#class", "Enter")
    tab.keyboard.press("2")
    assert tab.inner_text("#count") == "3 of 4 labeled"
    tab.reload()
    assert tab.inner_text("#count") == "3 of 4 labeled"
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Backspace")
    assert tab.inner_text("#count") == "2 of 4 labeled"
    with tab.expect_download() as download:
        tab.click("#save")
    download.value.save_as(tmp_path / "labels.csv")
    assert download.value.suggested_filename == "labels.csv"
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["file", "class"],
        ["old.png", "cat"],
        ["</script><script>document.title='owned'</script>.png", 'dog "big", brown'],
        ["a, b.png", 'dog "big", brown'],
    ]
    assert tab.title() != "owned"
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == []
    context.close()
