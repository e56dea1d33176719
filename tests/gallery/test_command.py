"""`edgekit gallery` and `edgekit predict --gallery` on real bundles, as a user calls them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.shell_completion import ShellComplete
from PIL import Image

import edgekit as package
from edgekit.bundle import Bundle, BundleFile, Variant, write_manifest
from edgekit.errors import DataError, EdgekitError
from edgekit.gallery import Gallery, GalleryWarning, Recognition
from edgekit.gallery.building import create
from edgekit.runtimes.predictor import Predictor
from tests.helpers.tiny_bundle import make_bundle, with_tflite, write_onnx

Command = Callable[..., tuple[int, str, str]]
COLORS = {
    "red": (230, 20, 20), "green": (20, 200, 30), "blue": (20, 30, 230), "white": (245, 245, 245), "yellow": (230, 220, 10),
    "purple": (150, 10, 180),
}  # fmt: skip


def write_photos(folder: Path, classes: list[str], count: int, seed: int = 0) -> Path:
    """Images of one color a class, with noise, so that each is unlike every other."""
    random = np.random.default_rng([seed, *map(ord, "".join(classes))])
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noise = np.kron(random.normal(0, 25, (4, 4, 3)), np.ones((5, 5, 1)))
            pixels = np.clip(np.array(COLORS.get(name, (90, 90, 90))) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "export", embedding=True)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("shop") / "shop", ["red", "green", "blue", "white"], 6)


@pytest.fixture(scope="module")
def made(bundle: Bundle, shop: Path) -> Gallery:
    return create(bundle, shop).gallery


@pytest.fixture
def gallery(made: Gallery, tmp_path: Path) -> Path:
    made.write(tmp_path / "shop.gallery")
    return tmp_path / "shop.gallery"


def embeddings(bundle: Bundle, files: list[Path], variant: str = "onnx-fp32") -> np.ndarray:
    with Predictor(bundle, variant) as predictor:
        rows = np.stack([predictor.predict(file).embedding for file in files]).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_gallery_is_made_and_answers_as_the_embeddings_say(
    bundle: Bundle, shop: Path, tmp_path: Path, edgekit: Command
) -> None:
    path = tmp_path / "out" / "shop.gallery"
    code, out, err = edgekit("gallery", "create", bundle.path, shop, "--output", path, "--json")
    assert (code, err) == (0, "")
    created = json.loads(out)
    assert created["classes"] == ["blue", "green", "red", "white"]
    assert (created["images"], created["features"], created["variant"]) == (24, 8, "onnx-fp32")
    assert created["agreement"]["openvino-fp16"] == {
        "images": 24, "agreed": 24, "cosine": pytest.approx(1, abs=1e-3),
    }  # fmt: skip
    files = sorted(shop.rglob("*.png"))
    own, names = embeddings(bundle, files), [file.parent.name for file in files]
    # Without its own class, each image stands for an unknown one: 5 % of 24 leave out none, so the largest of all is the threshold.
    foreign = [max(own[i] @ own[j] for j in range(24) if names[j] != names[i]) for i in range(24)]
    assert created["threshold"]["value"] == pytest.approx(max(foreign), abs=1e-6)
    asked = write_photos(tmp_path / "asked", ["red", "green", "purple"], 2, seed=1)
    code, out, err = edgekit("predict", bundle.path, "--gallery", path, asked, "--json", "--top", 2)
    assert code == 0, err
    asked_files = sorted(asked.rglob("*.png"))
    for line, row in zip(map(json.loads, out.splitlines()), embeddings(bundle, asked_files), strict=True):
        best: dict[str, float] = {}
        for name, other in zip(names, own, strict=True):
            best[name] = max(best.get(name, -2), float(row @ other))
        expected = sorted(best.items(), key=lambda item: -item[1])[:2]
        assert [near["class"] for near in line["nearest"]] == [name for name, _ in expected]
        assert [near["similarity"] for near in line["nearest"]] == pytest.approx([v for _, v in expected], abs=1e-5)
        known = expected[0][1] > created["threshold"]["value"]
        assert line["class"] == (expected[0][0] if known else "unknown")
        assert line["variant"] == "onnx-fp32"
        if (real := Path(line["file"]).parent.name) != "purple":
            assert line["nearest"][0]["class"] == real


def test_lines_for_people_and_a_threshold_of_ones_own(
    bundle: Bundle, gallery: Path, tmp_path: Path, edgekit: Command
) -> None:
    photo = write_photos(tmp_path / "asked", ["purple"], 1) / "purple" / "0.png"
    code, out, _ = edgekit("predict", bundle.path, "--gallery", gallery, photo, "--top", 1, "--threshold", 1)
    assert code == 0
    assert out.startswith(f"{photo}  unknown (")
    code, out, _ = edgekit("predict", bundle.path, "--gallery", gallery, photo, "--top", 1, "--threshold", 0)
    assert code == 0
    assert "unknown" not in out


@pytest.mark.parametrize("similarity", [-1, -0.5, 1])
def test_a_similarity_below_0_is_a_threshold_everywhere(
    bundle: Bundle, shop: Path, tmp_path: Path, edgekit: Command, similarity: float
) -> None:
    """A cosine is from -1 to 1: what `create` takes as a threshold, `test`, `predict` and Python take, too."""
    path, photo = tmp_path / "own.gallery", shop / "red" / "0.png"
    assert edgekit("gallery", "create", bundle.path, shop, "--output", path, "--threshold", similarity)[0] == 0
    own = json.loads(edgekit("predict", bundle.path, "--gallery", path, photo, "--json")[1])
    given = json.loads(
        edgekit("predict", bundle.path, "--gallery", path, photo, "--json", "--threshold", similarity)[1]
    )
    assert own == given
    assert given["threshold"] == similarity
    assert edgekit("gallery", "test", bundle.path, path, shop, "--threshold", similarity)[0] == 0
    with package.load(bundle.path, gallery=path) as model:
        answer = model.predict(photo, threshold=similarity)
        assert answer.threshold == similarity
        assert answer.known == (answer.similarity > similarity)


@pytest.mark.parametrize("wrong", [-1.5, 1.01, float("nan")])
def test_what_is_no_similarity_is_no_threshold_anywhere(
    bundle: Bundle, shop: Path, gallery: Path, edgekit: Command, wrong: float
) -> None:
    line = f"threshold: {wrong:g} is not from -1 to 1"
    with package.load(bundle.path, gallery=gallery) as model, pytest.raises(EdgekitError) as caught:
        model.predict(shop / "red" / "0.png", threshold=wrong)
    assert caught.value.message == line
    with pytest.raises(EdgekitError) as caught:
        create(bundle, shop, threshold=wrong)
    assert caught.value.message == line
    for command in (
        ["gallery", "test", bundle.path, gallery, shop],
        ["predict", bundle.path, "--gallery", gallery, "a.png"],
    ):
        code, out, err = edgekit(*command, "--threshold", wrong)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert "--threshold" in err


def test_every_runtime_answers_the_same_with_one_gallery(
    bundle: Bundle, made: Gallery, tmp_path: Path, require_module: Callable[[str, str], None]
) -> None:
    require_module("ai_edge_litert", "one of the runtimes that answer")
    shutil.copytree(bundle.path, tmp_path / "export")
    with_lite = with_tflite(Bundle.open(tmp_path / "export"), "litert-fp32", "litert", "fp32", "model.tflite")
    asked = sorted(write_photos(tmp_path / "asked", [*COLORS], 3, seed=2).rglob("*.png"))
    found = {}
    for variant in ("onnx-fp32", "openvino-fp16", "litert-fp32"):
        with package.load(with_lite, variant, gallery=made) as model:
            found[variant] = model.predict(asked, top=4)
    for one, other, third in zip(*found.values(), strict=True):
        for answer in (other, third):
            assert isinstance(answer, Recognition)
            assert [name for name, _ in answer.nearest] == [name for name, _ in one.nearest]
            # FP16 weights have 11 bits: vectors of length 1 differ by a few times 2^-11.
            assert answer.similarity == pytest.approx(one.similarity, abs=0.005)
            assert answer.known == one.known or abs(one.similarity - one.threshold) < 0.005


def test_classes_come_and_go_without_training(
    bundle: Bundle, gallery: Path, shop: Path, tmp_path: Path, edgekit: Command
) -> None:
    more = write_photos(tmp_path / "more", ["yellow", "red"], 2, seed=3)
    shutil.copy(shop / "red" / "0.png", more / "red" / "again.png")
    code, out, err = edgekit("gallery", "add", bundle.path, gallery, more, "--json")
    assert code == 0, err
    grown = json.loads(out)
    assert dict(zip(grown["classes"], grown["counts"], strict=True)) == {
        "blue": 6, "green": 6, "red": 8, "white": 6, "yellow": 2,
    }  # fmt: skip
    assert grown["skipped"] == 1
    assert grown["agreement"]["openvino-fp16"]["images"] == 24 + 4
    code, out, _ = edgekit("gallery", "remove", gallery, "blue", "white", "--json")
    assert (code, json.loads(out)["classes"]) == (0, ["green", "red", "yellow"])
    code, out, _ = edgekit("gallery", "list", gallery, "--json")
    assert (code, json.loads(out)["counts"]) == (0, [6, 8, 2])
    code, out, _ = edgekit("gallery", "list", gallery)
    assert (code, out.splitlines()[:3]) == (0, ["green   6", "red     8", "yellow  2"])
    # Added and removed in another order, it is the same gallery but for when it was made.
    whole = write_photos(tmp_path / "whole", ["yellow"], 1, seed=4)
    edgekit("gallery", "add", bundle.path, gallery, whole)
    edgekit("gallery", "remove", gallery, "yellow")
    left = Gallery.open(gallery)
    assert left.counts == {"green": 6, "red": 8}
    direct = create(bundle, shop).gallery.removed(["blue", "white"])
    assert set(direct.keys.tolist()) < set(left.keys.tolist())


def test_a_test_counts_what_it_should(bundle: Bundle, gallery: Path, tmp_path: Path, edgekit: Command) -> None:
    labeled = write_photos(tmp_path / "labeled", ["red", "green", "purple"], 4, seed=5)
    code, out, err = edgekit("gallery", "test", bundle.path, gallery, labeled, "--json")
    assert (code, err) == (0, "")
    scores = json.loads(out)
    with package.load(bundle, gallery=gallery) as model:
        answers = {file: model.predict(file, top=1) for file in sorted(labeled.rglob("*.png"))}
    known = [(a, f.parent.name) for f, a in answers.items() if f.parent.name != "purple"]
    foreign = [a for f, a in answers.items() if f.parent.name == "purple"]
    assert scores["known"]["images"] == 8
    assert scores["known"]["top1"]["share"] == sum(a.nearest[0][0] == name for a, name in known) / 8
    assert scores["known"]["accepted_and_right"]["share"] == sum(a.name == name for a, name in known) / 8
    assert scores["known"]["false_rejects"]["share"] == sum(not a.known for a, _ in known) / 8
    assert scores["unknown"] == {
        "images": 4, "false_accepts": {**scores["unknown"]["false_accepts"], "share": sum(a.known for a in foreign) / 4},
    }  # fmt: skip
    pairs = [(a.similarity > b.similarity) + (a.similarity == b.similarity) / 2 for a, _ in known for b in foreign]
    assert scores["auroc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    (labeled / "red" / "0.png").write_bytes(b"not an image")
    code, out, err = edgekit("gallery", "test", bundle.path, gallery, labeled)
    assert code == 1
    assert err.startswith(f"error: {labeled}/red/0.png: not an image")
    assert "7" in out
    code, _, err = edgekit("gallery", "test", bundle.path, gallery, labeled, "--threshold", 0.999999, "--json")
    assert code == 1


def _other_variant(bundle: Bundle, folder: Path, *, like: bool) -> Bundle:
    """The bundle with a further variant, which computes the same embedding or that of another network."""
    shutil.copytree(bundle.path, folder)
    write_onnx(folder / "other.onnx", layers=2 if like else 1, embedding=True)
    opened = Bundle.open(folder)
    files = [BundleFile.of(folder, "other.onnx")]
    opened.manifest.variants.append(
        Variant(id="onnx-int8", runtime="onnxruntime", precision="int8", files=files, executed=True, status="verified")
    )
    write_manifest(folder, opened.manifest)
    return Bundle.open(folder)


def test_another_variant_that_agrees_answers_without_a_word(
    bundle: Bundle, shop: Path, tmp_path: Path, made: Gallery
) -> None:
    other = _other_variant(bundle, tmp_path / "export", like=True)
    again = create(other, shop, variant="onnx-fp32")
    assert again.notes == []
    assert again.gallery.record.agreement["onnx-int8"].share == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", GalleryWarning)
        for gallery in (again.gallery, made):  # the other one knows nothing of this variant: the golden images tell
            package.load(other, "onnx-int8", gallery=gallery).close()


def test_another_variant_that_disagrees_is_named_with_what_to_do(
    bundle: Bundle, shop: Path, tmp_path: Path, made: Gallery, edgekit: Command
) -> None:
    other = _other_variant(bundle, tmp_path / "export", like=False)
    code, _, err = edgekit(
        "gallery", "create", other.path, shop, "--variant", "onnx-fp32", "--output", tmp_path / "new.gallery"
    )
    advice = "to predict with onnx-int8, create the gallery with --variant onnx-int8"
    assert code == 0
    (line,) = err.splitlines()
    assert line.startswith("note: onnx-int8 names the class that onnx-fp32, which made the gallery, names for ")
    assert line.endswith(advice)
    made.write(tmp_path / "old.gallery")  # made before there was such a variant
    for name, of in (("new", "the gallery's images"), ("old", "the bundle's golden images")):
        photo = shop / "red" / "0.png"
        code, _, err = edgekit(
            "predict", other.path, "--gallery", tmp_path / f"{name}.gallery", photo, "--variant", "onnx-int8"
        )
        assert code == 0
        (line,) = err.splitlines()
        assert line.startswith("warning: onnx-int8 names")
        assert f"of {of} alone" in line
        assert line.endswith(advice)
    with pytest.warns(GalleryWarning, match="create the gallery with --variant onnx-int8"):
        package.load(other, "onnx-int8", gallery=made).close()


def test_few_images_give_no_threshold_and_say_so(bundle: Bundle, tmp_path: Path, edgekit: Command) -> None:
    pair = write_photos(tmp_path / "pair", ["red", "green"], 1)
    path = tmp_path / "pair.gallery"
    code, out, err = edgekit("gallery", "create", bundle.path, pair, "--output", path)
    assert (code, err) == (0, "")
    assert "no threshold, every image gets a class: 5% false accepts need 19 images of at least two classes" in out
    photo = write_photos(tmp_path / "asked", ["purple"], 1) / "purple" / "0.png"
    code, out, _ = edgekit("predict", bundle.path, "--gallery", path, photo, "--json")
    assert json.loads(out)["threshold"] is None
    assert json.loads(out)["class"] in {"red", "green"}
    code, out, err = edgekit(
        "gallery", "create", bundle.path, pair, "--output", tmp_path / "other.gallery", "--false-accepts", 0.01
    )
    assert code == 2
    assert "no threshold: 1% false accepts need 99 images of at least two classes to judge by, and there are 2" in err
    assert not (tmp_path / "other.gallery").exists()
    code, out, _ = edgekit(
        "gallery", "create", bundle.path, pair, "--output", path, "--replace", "--threshold", 0.9, "--json"
    )
    assert json.loads(out)["threshold"]["value"] == 0.9


def _broken(folder: Path) -> None:
    (folder / "red" / "0.png").write_bytes(b"not an image")


WRONG_FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "shop: no such folder"),
    "a file": (lambda f: (shutil.rmtree(f), f.write_bytes(b"")), "shop: not a folder"),
    "flat": (lambda f: [shutil.move(f / n / "0.png", f / f"{n}.png") and shutil.rmtree(f / n) for n in ("red", "green")], "has no sub-folder"),
    "empty class": (lambda f: (f / "blue").mkdir(), "shop/blue: no image in this class's folder"),
    "not an image": (_broken, "shop/red/0.png: not an image"),
    "repeated": (lambda f: shutil.copytree(f / "red", f / "Red"), "the class red is there twice: Red and red look the same"),
    "accents": (lambda f: (shutil.copytree(f / "red", f / "e\u0301"), shutil.move(f / "green", f / "\u00e9")), "is there twice"),
    "unknown": (lambda f: (f / "red").rename(f / "Unknown"), "a class cannot be called unknown"),
    "twice the same": (lambda f: shutil.copy(f / "red" / "0.png", f / "green" / "1.png"), "the same image is in two classes"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_FOLDERS)
@pytest.mark.parametrize("what", ["create", "add"])
def test_a_wrong_folder_is_one_line_and_changes_nothing(
    bundle: Bundle, gallery: Path, tmp_path: Path, edgekit: Command, kind: str, what: str
) -> None:
    folder = write_photos(tmp_path / "shop", ["red", "green"], 1, seed=9)
    spoil, message = WRONG_FOLDERS[kind]
    spoil(folder)
    before = gallery.read_bytes()
    words = (
        (bundle.path, folder, "--output", gallery, "--replace") if what == "create" else (bundle.path, gallery, folder)
    )
    code, out, err = edgekit("gallery", what, *words)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert gallery.read_bytes() == before


def test_wrong_words_are_one_line_each(
    bundle: Bundle, gallery: Path, shop: Path, tmp_path: Path, edgekit: Command
) -> None:
    photo = shop / "red" / "0.png"
    cut = tmp_path / "cut.gallery"
    cut.write_bytes(gallery.read_bytes()[:-100])
    other = make_bundle(tmp_path / "other", openvino=False, embedding=True, layers=1)
    plain = make_bundle(tmp_path / "plain", openvino=False)
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("gallery", "create", bundle.path, shop, "--output", gallery), "is there already (add to it with"),
        (("gallery", "create", bundle.path, shop, "--threshold", 0.5, "--false-accepts", 0.1), "leave one out"),
        (("gallery", "create", bundle.path, shop, "--false-accepts", 1), "--false-accepts: 1.0 is not a number above 0 and below 1"),
        (("gallery", "create", bundle.path, shop, "--variant", "onnx-fp23", "--output", tmp_path / "x"), "did you mean onnx-fp32?"),
        (("gallery", "create", plain.path, shop, "--output", tmp_path / "x"), "edgekit export RUN --embedding"),
        (("predict", plain.path, "--gallery", gallery, photo), "its graphs give no embedding, which a gallery needs"),
        (("predict", other.path, "--gallery", gallery, photo), "made with another bundle: tiny, model "),
        (("gallery", "add", other.path, gallery, shop), "made with another bundle"),
        (("gallery", "test", other.path, gallery, shop), "made with another bundle"),
        (("predict", bundle.path, "--gallery", cut, photo), "cut.gallery: not a gallery"),
        (("gallery", "list", cut), "cut.gallery: not a gallery"),
        (("gallery", "remove", cut, "red"), "cut.gallery: not a gallery"),
        (("gallery", "remove", gallery, "rde"), "the gallery has no class rde (did you mean red?)"),
        (("gallery", "remove", gallery, "red", "green", "blue", "white"), "no class would be left"),
        (("gallery", "remove", gallery), "CLASS… is missing"),
        (("gallery", "list", tmp_path / "none.gallery"), "none.gallery: no such gallery"),
        (("gallery", "lits", gallery), "no such command edgekit gallery lits (did you mean list?)"),  # codespell:ignore
        (("gallery", "list", gallery, "--jsno"), "did you mean --json?"),
    ]  # fmt: skip
    before = gallery.read_bytes()
    for words, message in cases:
        code, out, err = edgekit(*words)
        assert (code, out) == (2, ""), words
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert gallery.read_bytes() == before
    assert not (tmp_path / "x").exists()


def test_a_bundle_of_the_same_model_with_further_variants_still_fits(
    bundle: Bundle, made: Gallery, shop: Path, tmp_path: Path
) -> None:
    other = _other_variant(bundle, tmp_path / "export", like=True)
    assert other.digest != bundle.digest
    with package.load(other, "onnx-fp32", gallery=made) as model:
        assert model.predict(shop / "red" / "0.png").name == "red"
    changed = _other_variant(bundle, tmp_path / "changed", like=True)
    preprocessing = changed.manifest.preprocessing.model_copy(update={"resize_to": 30})
    write_manifest(changed.path, changed.manifest.model_copy(update={"preprocessing": preprocessing}))
    with pytest.raises(DataError, match="made with another bundle"):
        package.load(changed.path, "onnx-fp32", gallery=made)


def test_every_example_of_the_documentation(
    bundle: Bundle,
    tmp_path: Path,
    edgekit: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """docs/gallery.md, block by block as it stands, in a folder with what it names."""
    shutil.make_archive(str(tmp_path / "bundle"), "zip", bundle.path)
    write_photos(tmp_path / "shop", ["mug", "bowl", "red"], 2)
    write_photos(tmp_path / "new-products", ["blue"], 1)
    write_photos(tmp_path / "test-photos", ["red", "green"], 2, seed=1)
    Image.new("RGB", (30, 20), (200, 20, 20)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    text = (Path(__file__).parents[2] / "docs" / "gallery.md").read_text()
    lines = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    assert len(lines) > 5
    for line in lines:
        code, _, err = edgekit(*shlex.split(line)[1:])
        assert code == 0, f"{line}: {err}"
    exec("".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), {})
    assert "red" in capsys.readouterr().out
    assert Gallery.open("smaller.gallery").classes == ["blue", "red"]


@pytest.mark.parametrize("name", ["create", "add", "remove", "list", "test"])
def test_each_command_helps_with_an_example(edgekit: Command, name: str) -> None:
    code, out, _ = edgekit("gallery", name, "--help")
    assert code == 0
    assert "For example" in out
    assert f"edgekit gallery {name} " in out


def test_the_commands_are_completed() -> None:
    from edgekit.cli.main import cli

    completion = ShellComplete(cli, {}, "edgekit", "_EDGEKIT_COMPLETE")
    assert {found.value for found in completion.get_completions(["gallery"], "")} == {
        "create", "add", "remove", "list", "test",
    }  # fmt: skip
    assert "--false-accepts" in {found.value for found in completion.get_completions(["gallery", "create"], "--f")}
