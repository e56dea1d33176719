"""`edgekit embed` as a user runs it: the table, the outliers, wrong input, and the page in a real browser."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from edgekit import recipe as recipes
from edgekit.models.store import load_classifier
from edgekit.preprocess import read_image
from edgekit.report.image_map import Coloring, ImageMap, write_map
from edgekit.run import Run
from edgekit.train.evaluate import apply
from edgekit.train.stages.pipeline import train
from tests.helpers import recipe_changes
from tests.helpers.recipe_changes import changed

Command = Callable[..., tuple[int, str, str]]

TINY = changed(
    recipe_changes.TINY,
    pretrain__epochs=1,
    pretrain__optimizer={"warmup_epochs": 0},
    finetune={"epochs": 2, "batch_size": 50},
    hardware={"accelerator": "cpu", "threads": 1},
)
HOSTILE = "<img src=x onerror=alert(1)> & 猫.png"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(recipes.parse(TINY), Run(folder), until="finetune")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of many shapes in two folders, one beside them, one unlike all others, one copy, and two that are damaged."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, color in (("dark", 40), ("bright", 200)):
        (root / name).mkdir()
        for i in range(14):
            shape = (12 + i, 30 - i, 3)
            pixels = np.clip(color + rng.normal(0, 12, shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
    checks = (np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(np.stack([checks, 255 - checks, checks], -1)).save(root / "dark" / HOSTILE)
    shutil.copy(root / "dark" / "00.png", root / "copy.png")
    (root / "dark" / "broken.png").write_bytes(b"not an image")
    (root / "bright" / "cut.png").write_bytes((root / "bright" / "00.png").read_bytes()[:60])
    return root


def test_the_table_holds_what_the_model_makes_of_every_image(
    run: Path, photos: Path, edgekit: Command, tmp_path: Path
) -> None:
    code, text, errors = edgekit("embed", run, photos, "--of", "teacher", "--output", tmp_path, "--k", 3, "--json")
    assert code == 0, errors
    said = json.loads(text)
    table = pq.read_table(tmp_path / "features.parquet")
    rows = {row["file"]: row for row in table.to_pylist()}
    assert len(rows) == said["images"] == 30
    assert table.schema.field("features").type.list_size == said["features"]
    about = json.loads(table.schema.metadata[b"edgekit"])
    assert about["model"] == "teacher"
    assert "3rd nearest neighbor among the 30 images" in about["anomaly"]
    assert about["weights_sha256"] == Run(run).require("finetune").outputs["model.safetensors"]

    model = load_classifier(run / "finetune")
    data = recipes.parse(TINY).data
    pixels = np.stack([data.preprocessing()(read_image(photos / name)) for name in rows])
    import torch

    device = torch.device("cpu")
    features = apply(_Embedder(model), pixels, data.mean, data.std, device).numpy()
    logits = apply(model, pixels, data.mean, data.std, device)
    for i, row in enumerate(rows.values()):
        assert row["features"] == pytest.approx(features[i].tolist(), abs=1e-4)
        assert row["predicted"] == model.classes[int(logits[i].argmax())]
        assert row["probability"] == pytest.approx(float(logits[i].softmax(0).max()), abs=1e-4)
        assert row["file"] not in row["neighbors"]
        assert len(row["neighbors"]) == len(row["similarities"]) == 3
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        assert row["anomaly"] == pytest.approx(np.sort(np.linalg.norm(unit - unit[i], axis=1))[3], abs=2e-3)
    assert rows["copy.png"]["label"] is None
    assert rows["bright/03.png"]["label"] == "bright"
    assert rows["copy.png"]["neighbors"][0] == "dark/00.png"
    assert rows["copy.png"]["similarities"][0] == pytest.approx(1, abs=1e-5)


class _Embedder:
    """What the linear layer of a classifier sees."""

    def __new__(cls, model: Any) -> Any:
        from torch import nn

        class Embedder(nn.Module):
            def forward(self, images: Any) -> Any:
                return model.embed(images)

        model.eval()
        return Embedder()


def test_outliers_neighbors_and_damaged_files_are_told(
    run: Path, photos: Path, edgekit: Command, tmp_path: Path
) -> None:
    code, text, errors = edgekit(
        "embed", run, photos, "--output", tmp_path, "--k", 3, "--outliers", 4, "--neighbors", photos / "bright" / "05.png", "--json"
    )  # fmt: skip
    assert code == 0, errors
    said = json.loads(text)
    assert len(said["outliers"]) == 4
    assert said["outliers"][0]["file"] == f"dark/{HOSTILE}"
    scores = [o["anomaly"] for o in said["outliers"]]
    assert scores == sorted(scores, reverse=True)
    (found,) = said["neighbors"].values()
    assert (found[0]["file"], found[0]["cosine"]) == ("bright/05.png", pytest.approx(1, abs=1e-5))
    assert {Path(s["file"]).name for s in said["skipped"]} == {"broken.png", "cut.png"}
    assert errors.count("skipped ") == 2
    with open(tmp_path / "skipped.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 2
    assert "predicted" not in pq.read_schema(tmp_path / "features.parquet").names  # an encoder has no classes


def test_a_map_of_fewer_images_than_there_are_leaves_the_others_places_empty(
    run: Path, photos: Path, edgekit: Command, tmp_path: Path
) -> None:
    code, text, errors = edgekit("embed", run, photos, "--output", tmp_path, "--points", 12, "--outliers", 5)
    assert code == 0, errors
    assert "Outliers" in text
    assert "30 images" in text
    rows = pq.read_table(tmp_path / "features.parquet").to_pylist()
    assert sum(row["x"] is not None for row in rows) == 12
    worst = sorted(rows, key=lambda row: -row["anomaly"])[:5]
    assert all(row["x"] is not None and row["y"] is not None for row in worst)


def test_against_the_pool_an_image_of_it_is_not_compared_with_itself(
    run: Path, edgekit: Command, tmp_path: Path
) -> None:
    code, text, errors = edgekit(
        "embed", run, "digits", "--against", "pool", "--k", 1, "--points", 20, "--output", tmp_path, "--json"
    )
    assert code == 0, errors
    assert "images of the run's pool, itself left out" in json.loads(text)["anomaly"]
    scores = [row["anomaly"] for row in pq.read_table(tmp_path / "features.parquet").to_pylist()]
    assert np.median(scores) > 1e-3  # 0 if each were its own neighbor


def refused(result: tuple[int, str, str], *parts: str) -> None:
    code, _, errors = result
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert (code, len(lines)) == (2, 1), errors
    assert all(part in lines[0] for part in parts), lines


def test_wrong_input_ends_in_one_line(run: Path, photos: Path, edgekit: Command, tmp_path: Path) -> None:
    output = tmp_path / "output"
    common = ("--output", output)
    refused(edgekit("embed", run, tmp_path / "none", *common), "none: no such folder")
    (tmp_path / "empty").mkdir()
    refused(edgekit("embed", run, tmp_path / "empty", *common), "holds no images")
    broken = tmp_path / "broken"
    broken.mkdir()
    for i in range(3):
        (broken / f"{i}.jpg").write_bytes(b"no")
    refused(edgekit("embed", run, broken, *common), "no image can be read, of 3")
    shutil.copy(photos / "copy.png", broken / "one.png")
    refused(edgekit("embed", run, broken, *common), "only 1 image can be read", "at least two")
    refused(edgekit("embed", run, photos, "--of", "student", *common), "the stage distill is not complete")
    refused(edgekit("embed", tmp_path / "no-run", photos, *common), "no such run")
    refused(edgekit("embed", run, photos, "--neighbors", "gone.jpg", *common), "gone.jpg: no such file")
    (tmp_path / "file").touch()
    refused(edgekit("embed", run, tmp_path / "none", "--output", tmp_path / "file"), "is not a folder")
    assert not output.exists()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 300 images in twelve groups, some of them hostile by name."""
    rng = np.random.default_rng(0)
    count = 300
    groups = np.arange(count) % 12
    names = [HOSTILE, "</script><script>document.title='owned'</script>", *(f"class {i}" for i in range(2, 12))]
    files = [f"{names[g]}/{i:03}.png" for i, g in enumerate(groups)]
    pictures = [
        Image.fromarray(np.full((20 + i % 9, 30, 3), (20 * g, 255 - 20 * g, i % 255), np.uint8))
        for i, g in enumerate(groups)
    ]
    positions = np.stack([np.cos(groups), np.sin(groups)], 1) + 0.06 * rng.normal(size=(count, 2))
    neighbors = [
        [((i + 12 * j) % count, 1 - 0.01 * j) for j in (1, 2, 3)] + [("far/away.png", 0.5)] for i in range(count)
    ]
    path = tmp_path_factory.mktemp("page") / "map.html"
    write_map(
        ImageMap(
            title=f"Map of {HOSTILE}",
            lead="All 300 images.",
            files=files,
            positions=positions.astype(np.float32),
            anomaly=rng.random(count).astype(np.float32),
            definition="a distance",
            neighbors=neighbors,
            colorings=[
                Coloring("label", "folder", [names[g] if i % 50 else None for i, g in enumerate(groups)]),
                Coloring("predicted", "predicted class", [names[(g + 1) % 12] for g in groups]),
            ],
            probability=rng.random(count).astype(np.float32),
            thumbnails=pictures,
            facts=[("positions", "by hand")],
        ),
        path,
    )
    return path


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Callable[..., Any]]:
    contexts, complaints = [], []

    def open_page(**options: Any) -> Any:
        # Nothing glides: where the map is when it is asked for, it still is when the pointer gets there.
        contexts.append(browser.new_context(reduced_motion="reduce", **options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(0)  # a busy machine is slow, not wrong
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("#legend > *")
        settled(tab)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []  # nothing broken, and nothing asked of the network


def settled(tab: Any) -> None:
    """Wait until the page has dealt with what was done to it: input comes before a frame is drawn, and the map is drawn in one."""
    tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def painted(tab: Any) -> int:
    """How many of the map's pixels are not empty."""
    return tab.evaluate(
        "() => { const c = document.getElementById('map'), copy = new OffscreenCanvas(c.width, c.height);"
        " const pen = copy.getContext('2d', { willReadFrequently: true }); pen.drawImage(c, 0, 0);"
        " return pen.getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 == 3 && v > 0).length }"
    )


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_page_is_whole_and_fits(opened: Callable[..., Any], size: dict[str, Any]) -> None:
    tab = opened(**size)
    assert tab.title() == f"Map of {HOSTILE} · edgekit map"
    assert tab.locator("h1").inner_text() == f"Map of {HOSTILE}"
    assert tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert painted(tab) > 300 * 20
    assert tab.locator(".outliers button").count() == 12
    assert tab.locator("#legend button").count() == 13  # twelve groups, and those in none
    assert tab.locator("img").count() == 1  # the sprite, and nothing that a name brought
    assert "by hand" in tab.inner_text("body")


def test_a_pointed_image_shows_its_thumbnail_and_name_and_a_clicked_one_its_neighbors(
    opened: Callable[..., Any],
) -> None:
    tab = opened(**DESKTOP)
    tab.locator(".outliers button").first.click()
    name = tab.locator(".outliers button span").first.inner_text()
    assert tab.locator("#chosen h2").inner_text() == name
    assert tab.locator("#chosen li").count() == 4
    assert tab.locator("#chosen li button").count() == 3  # the fourth is not on the map
    tab.locator("#chosen li button").first.click()
    other = tab.locator("#chosen h2").inner_text()
    assert other != name
    # The chosen image stands where its ring is drawn: point somewhere on the map until a tip appears.
    settled(tab)
    box = tab.locator("#map").bounding_box()
    for x in range(20, int(box["width"]), 12):
        tab.mouse.move(box["x"] + x, box["y"] + box["height"] / 2)
        settled(tab)
        if tab.locator("#tip").is_visible():
            break
    assert tab.locator("#tip span").inner_text().endswith(".png")
    shown = tab.evaluate("[...document.querySelector('#tip canvas').getContext('2d').getImageData(48, 48, 1, 1).data]")
    assert shown[3] == 255


def test_scrolling_glides_only_for_who_wants_motion(browser: Any, page: Path) -> None:
    for motion, behavior in (("no-preference", "smooth"), ("reduce", "auto")):
        context = browser.new_context(reduced_motion=motion)
        tab = context.new_page()
        tab.goto(page.resolve().as_uri())
        assert tab.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == behavior
        context.close()


def test_a_tap_shows_the_name_at_the_point(opened: Callable[..., Any]) -> None:
    tab = opened(**PHONE)
    tab.locator(".outliers button").first.tap()
    settled(tab)
    assert tab.locator("#tip").is_visible()
    assert tab.locator("#tip span").inner_text() == tab.locator(".outliers button span").first.inner_text()
    smallest = tab.evaluate("Math.min(...[...document.querySelectorAll('.zoom button')].map((b) => b.offsetHeight))")
    assert smallest >= 40


def test_the_keyboard_walks_zooms_and_lets_go(opened: Callable[..., Any]) -> None:
    tab = opened(**DESKTOP)
    tab.focus("#map")
    tab.keyboard.press("ArrowRight")
    first = tab.locator("#chosen h2").inner_text()
    assert first in tab.locator("#said").inner_text()  # told to those who cannot see it
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#chosen h2").inner_text() != first
    before = painted(tab)
    for _ in range(6):
        tab.keyboard.press("+")
    settled(tab)
    assert painted(tab) != before
    tab.keyboard.press("0")
    tab.keyboard.press("Escape")
    settled(tab)
    assert tab.locator("#chosen h2").count() == 0


def test_searching_and_the_legend_bring_out_what_they_name(opened: Callable[..., Any]) -> None:
    tab = opened(**DESKTOP)
    tab.fill("#search", "CLASS 7/")
    assert tab.locator("#matches").inner_text() == "25 of 300"
    tab.press("#search", "Enter")
    assert tab.locator("#chosen h2").inner_text().startswith("class 7/")
    tab.fill("#search", "")
    entry = tab.locator("#legend button", has_text="class 3")
    assert "24" in entry.inner_text() or "25" in entry.inner_text()
    entry.click()
    assert entry.get_attribute("aria-pressed") == "true"
    tab.select_option("#color", "-1")
    assert tab.locator("#legend button").count() == 0
    assert "like others" in tab.locator("#legend").inner_text()


def test_dark_follows_the_system_and_the_button(opened: Callable[..., Any]) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    assert light.evaluate(background) != dark.evaluate(background)
    light.click("#theme")
    assert light.evaluate(background) == dark.evaluate(background)
