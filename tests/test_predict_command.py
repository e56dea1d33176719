"""`edgekit predict` on a real bundle, as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from edgekit.bundle import MANIFEST, Bundle
from edgekit.runtimes.predictor import Predictor
from tiny_bundle import CLASSES, make_bundle, some_images


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "export")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(some_images(3)):
        Image.fromarray(image).resize((60, 40)).save(folder / f"{i}.jpg")
    return folder


def predict(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_json_lines_say_what_the_api_says(bundle: Bundle, photos: Path) -> None:
    done = predict(bundle.path, photos, "--json", "--top", "2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(photos / f"{i}.jpg") for i in range(3)]
    predictor = Predictor(bundle, threads=1)
    for line in lines:
        assert line["variant"] == "onnx-fp32"
        expected = predictor.predict(line["file"], top=2).classes
        assert [c["class"] for c in line["classes"]] == [name for name, _ in expected]
        assert [c["probability"] for c in line["classes"]] == pytest.approx([p for _, p in expected], abs=1e-5)


def test_lines_for_people(bundle: Bundle, photos: Path) -> None:
    done = predict(bundle.path, photos / "0.jpg", "--variant", "openvino-fp16", "--top", "1")
    assert done.returncode == 0, done.stderr
    name, probability = Predictor(bundle, "openvino-fp16").predict(photos / "0.jpg").classes[0]
    assert done.stdout == f"{photos / '0.jpg'}  {name} {probability:.1%}\n"
    assert name in CLASSES


def test_an_unreadable_image_does_not_stop_the_others(bundle: Bundle, photos: Path) -> None:
    (photos / "1.jpg").write_bytes(b"not an image")
    done = predict(bundle.path, photos, photos / "gone.jpg", "--json")
    assert done.returncode == 2
    assert [Path(json.loads(line)["file"]).name for line in done.stdout.splitlines()] == ["0.jpg", "2.jpg"]
    errors = done.stderr.splitlines()
    assert len(errors) == 2
    assert "1.jpg: not an image" in errors[0]
    assert "gone.jpg: no such file" in errors[1]


def test_damaged_metadata_is_not_worth_a_word(bundle: Bundle, photos: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
    Image.fromarray(some_images(1)[0]).save(photos / "0.jpg", exif=exif)
    done = predict(bundle.path, photos / "0.jpg")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "onnx-fp23"], "did you mean onnx-fp32?"),
        (["--top", "0"], "--top"),
    ],
)
def test_wrong_options_end_in_one_line(bundle: Bundle, photos: Path, arguments: list[str], message: str) -> None:
    done = predict(bundle.path, photos, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_missing_bundle_and_an_empty_folder(bundle: Bundle, tmp_path: Path) -> None:
    assert "no such bundle" in predict(tmp_path / "none", tmp_path).stderr
    done = predict(bundle.path, tmp_path)
    assert (done.returncode, "no image in this folder" in done.stderr) == (2, True)


def test_a_rejected_variant_runs_only_by_name_and_with_a_warning(tmp_path: Path, photos: Path) -> None:
    folder = make_bundle(tmp_path / "export", openvino=False).path
    content = json.loads((folder / MANIFEST).read_text())
    content["variants"][0]["status"] = "rejected"
    (folder / MANIFEST).write_text(json.dumps(content))
    done = predict(folder, photos)
    assert done.returncode == 2
    assert "no verified variant" in done.stderr
    done = predict(folder, photos, "--variant", "onnx-fp32", "--json")
    assert done.returncode == 0
    assert "onnx-fp32 is rejected" in done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_file_names_that_are_no_text_are_printed_all_the_same(bundle: Bundle, photos: Path) -> None:
    name = os.fsencode(photos) + b"/\xff\xfe.png"
    try:
        Image.fromarray(some_images(1)[0]).save(os.fsdecode(name))
    except OSError:
        pytest.skip("this file system takes only names that are UTF-8")
    for options in ([], ["--json"]):
        done = predict(bundle.path, os.fsdecode(name), *options)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1
    assert os.fsencode(json.loads(done.stdout)["file"]) == name
