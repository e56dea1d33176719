"""`edgekit predict` on a real bundle, as a user calls it."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.bundle import MANIFEST, Bundle, write_manifest
from edgekit.runtimes.predictor import Predictor
from tests.helpers.tiny_bundle import CLASSES, make_bundle, some_images

Command = Callable[..., tuple[int, str, str]]
Call = Callable[..., subprocess.CompletedProcess[str]]


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
    """In a process of its own, as a user calls it."""
    command = [sys.executable, "-m", "edgekit", "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def call(edgekit: Command) -> Call:
    """The same in this process, which is faster."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(arguments, *edgekit("predict", *arguments))

    return run


def test_json_lines_say_what_the_api_says(bundle: Bundle, photos: Path) -> None:
    done = predict(bundle.path, photos, "--json", "--top", "2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"3 images, [\d.]+ s: [\d.]+ images/s \(onnx-fp32, batch 1, from file to answer\)\n", done.stderr
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(photos / f"{i}.jpg") for i in range(3)]
    predictor = Predictor(bundle, threads=1)
    for line in lines:
        assert line["variant"] == "onnx-fp32"
        expected = predictor.predict(line["file"], top=2).classes
        assert [c["class"] for c in line["classes"]] == [name for name, _ in expected]
        assert [c["probability"] for c in line["classes"]] == pytest.approx([p for _, p in expected], abs=1e-5)


def test_lines_for_people(bundle: Bundle, photos: Path, call: Call) -> None:
    done = call(bundle.path, photos / "0.jpg", "--variant", "openvino-fp16", "--top", "1")
    assert done.returncode == 0, done.stderr
    name, probability = Predictor(bundle, "openvino-fp16").predict(photos / "0.jpg").classes[0]
    assert done.stdout == f"{photos / '0.jpg'}  {name} {probability:.1%}\n"
    assert name in CLASSES


def test_an_unreadable_image_does_not_stop_the_others(bundle: Bundle, photos: Path, call: Call) -> None:
    (photos / "1.jpg").write_bytes(b"not an image")
    done = call(bundle.path, photos, photos / "gone.jpg", "--json")
    assert done.returncode == 1
    assert [Path(json.loads(line)["file"]).name for line in done.stdout.splitlines()] == ["0.jpg", "2.jpg"]
    errors = done.stderr.splitlines()
    assert len(errors) == 3
    assert "1.jpg: not an image" in errors[0]
    assert "gone.jpg: no such file" in errors[1]
    assert errors[2].startswith("2 images, 2 could not be read, ")


def test_the_number_of_unreadable_images_is_behind_the_notes(bundle: Bundle, photos: Path, call: Call) -> None:
    (photos / "1.jpg").write_bytes(b"not an image")
    (photos / "list.txt").touch()
    lines = call(bundle.path, photos).stderr.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["error:", "note:", "2"]
    assert lines[-1].startswith("2 images, 1 could not be read, ")


def _damaged(path: Path) -> Path:
    path.write_bytes(b"\xff\xd8\xff\xe0 cut off")
    return path


def _linked(target: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.symlink_to(target)
        return path

    return make


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _huge(path: Path) -> Path:
    Image.new("L", (300, 300)).save(path, "PNG")
    return path


UNREADABLE: dict[str, Callable[[Path], Path]] = {
    "missing": lambda path: path, "damaged": _damaged, "pipe": _pipe, "endless": _linked("/dev/zero"), "loop": _linked("bad.png"),
    "device": lambda path: Path("/dev/zero"), "too large": _huge,
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("batch", [1, 4])
def test_an_image_that_cannot_be_read_exits_with_1_alone_and_among_others(
    kind: str, batch: int, bundle: Bundle, photos: Path, tmp_path: Path, edgekit: Command
) -> None:
    bad = UNREADABLE[kind](tmp_path / "bad.png")
    good = sorted(photos.iterdir())
    for images, lines in (([bad], 0), ([good[0], bad, *good[1:]], 3), ([bad, bad], 0)):
        code, out, err = edgekit("predict", bundle.path, *images, "--batch", batch, "--max-pixels", 50_000)
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 1
        assert len(out.splitlines()) == lines
        assert len(errors) == images.count(bad)
        assert all(line.startswith(f"error: {bad}: ") for line in errors)


def test_what_stops_everything_exits_with_2(bundle: Bundle, photos: Path, tmp_path: Path, edgekit: Command) -> None:
    """A folder without images, even beside good images, and a folder in the place of a bundle: nothing is classified."""
    (tmp_path / "empty").mkdir()
    for words in ((bundle.path, photos, tmp_path / "empty"), (tmp_path / "empty", photos)):
        code, out, err = edgekit("predict", *words)
        assert code == 2
        assert out == ""
        assert len(err.splitlines()) == 1


def test_damaged_metadata_is_not_worth_a_word(bundle: Bundle, photos: Path, call: Call) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
    Image.fromarray(some_images(1)[0]).save(photos / "0.jpg", exif=exif)
    done = call(bundle.path, photos / "0.jpg")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "onnx-fp23"], "did you mean onnx-fp32?"),
        (["--top", "0"], "--top"),
    ],
)
def test_wrong_options_end_in_one_line(
    bundle: Bundle,
    photos: Path,
    arguments: list[str],
    message: str,
    call: Call,
) -> None:
    done = call(bundle.path, photos, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_missing_bundle_and_an_empty_folder(bundle: Bundle, tmp_path: Path, call: Call) -> None:
    assert "no such bundle" in call(tmp_path / "none", tmp_path).stderr
    done = call(bundle.path, tmp_path)
    assert (done.returncode, "no image in this folder" in done.stderr) == (2, True)


def test_a_rejected_variant_runs_only_by_name_and_with_a_warning(tmp_path: Path, photos: Path, call: Call) -> None:
    folder = make_bundle(tmp_path / "export", openvino=False).path
    content = json.loads((folder / MANIFEST).read_text())
    content["variants"][0]["status"] = "rejected"
    (folder / MANIFEST).write_text(json.dumps(content))
    done = call(folder, photos)
    assert done.returncode == 2
    assert "no verified variant" in done.stderr
    done = call(folder, photos, "--variant", "onnx-fp32", "--json")
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


def test_embeddings_go_into_a_file_or_into_the_lines(tmp_path: Path, photos: Path, edgekit: Command) -> None:
    bundle = make_bundle(tmp_path / "export", openvino=False, embedding=True)
    (photos / "1.jpg").write_bytes(b"not an image")
    target = tmp_path / "out" / "photos.npz"
    code, _, err = edgekit("predict", bundle.path, photos, "--embedding", target, "--batch", 2)
    assert (code, "1 could not be read" in err) == (1, True)
    with np.load(target) as archive:
        rows, files = archive["embeddings"], archive["files"]
    assert [Path(name).name for name in files] == ["0.jpg", "2.jpg"]
    predictor = Predictor(bundle)
    expected = np.stack([predictor.predict(str(name)).embedding for name in files])
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, rtol=1e-5)
    edgekit("predict", bundle.path, photos / "0.jpg", "--embedding", tmp_path / "one.npy")
    np.testing.assert_allclose(np.load(tmp_path / "one.npy"), expected[:1], rtol=1e-5)
    _, out, _ = edgekit("predict", bundle.path, photos / "0.jpg", "--jsonl", "--embedding", "-")
    np.testing.assert_allclose(json.loads(out)["embedding"], expected[0], rtol=1e-5)
    _, out, _ = edgekit("predict", bundle.path, photos / "0.jpg", "--json")
    assert "embedding" not in json.loads(out), "only where it is asked for"


@pytest.mark.parametrize("end", ["\n", "\0", "\r\n"])
def test_a_list_on_standard_input(
    bundle: Bundle, photos: Path, end: str, edgekit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "empty").mkdir()
    names = [photos / "2.jpg", photos / "empty", photos]
    listed = end.join(map(str, names)) + end
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed.encode())))
    code, out, err = edgekit("predict", bundle.path, "-", "--json", "--batch", 2)
    assert [Path(json.loads(line)["file"]).name for line in out.splitlines()] == ["2.jpg", "0.jpg", "1.jpg", "2.jpg"]
    assert code == 1
    assert "empty: is a folder, not an image" in err


def test_a_list_is_answered_name_by_name_and_a_closed_pipe_ends_quietly(bundle: Bundle, photos: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "predict", str(bundle.path), "-", "--top", "1"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as running:
        assert running.stdin
        assert running.stdout
        assert running.stderr
        for name in ("0.jpg", "2.jpg"):
            print(photos / name, file=running.stdin, flush=True)
            assert running.stdout.readline().startswith(str(photos / name)), "before the next one is named"
        running.stdout.close()
        print(photos / "1.jpg", file=running.stdin, flush=True)
        running.stdin.close()
        assert running.stderr.read() == ""
        assert running.wait() == 141


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_predict_writes_what_it_has_and_says_by_what_it_was_stopped(
    photos: Path, tmp_path: Path, number: signal.Signals
) -> None:
    bundle, found = make_bundle(tmp_path / "export", openvino=False, embedding=True), tmp_path / "found.npz"
    command = [sys.executable, "-m", "edgekit", "predict", str(bundle.path), "-", "--embedding", str(found)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    (tmp_path / "tmp").mkdir()
    with subprocess.Popen(command, text=True, env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}, **pipes) as running:
        assert running.stdin
        assert running.stdout
        assert running.stderr
        print(photos / "0.jpg", file=running.stdin, flush=True)
        assert running.stdout.readline().startswith(str(photos / "0.jpg"))
        running.send_signal(number)
        assert running.wait() == 128 + number
        assert running.stderr.read().splitlines()[-1] == "interrupted"
    with np.load(found) as archive:
        assert [Path(name).name for name in archive["files"]] == ["0.jpg"]
    assert not any((tmp_path / "tmp").iterdir())


def test_batches_and_thresholds(bundle: Bundle, photos: Path, edgekit: Command) -> None:
    one = edgekit("predict", bundle.path, photos, "--json")[1]
    many = edgekit("predict", bundle.path, photos, "--json", "--batch", 2)[1]
    for single, batched in zip(one.splitlines(), many.splitlines(), strict=True):
        a, b = json.loads(single), json.loads(batched)
        assert a["file"] == b["file"]
        assert [c["probability"] for c in a["classes"]] == pytest.approx(
            [c["probability"] for c in b["classes"]], abs=1e-5
        )
    best = [json.loads(line)["classes"][0]["probability"] for line in one.splitlines()]
    _, out, _ = edgekit("predict", bundle.path, photos, "--json", "--threshold", min(best) + 1e-4)
    assert [len(json.loads(line)["classes"]) > 0 for line in out.splitlines()] == [p > min(best) for p in best]
    _, out, _ = edgekit("predict", bundle.path, photos / "0.jpg", "--threshold", 1)
    assert out == f"{photos / '0.jpg'}  –\n"


def test_the_frames_of_a_video(
    bundle: Bundle, tmp_path: Path, edgekit: Command, require_module: Callable[[str, str], None]
) -> None:
    require_module("cv2", "writes the video and reads it")
    import cv2

    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]  # OpenCV's order: blue, green, red
    for color in colors:
        writer.write(np.full((32, 32, 3), color, np.uint8))
    writer.release()
    code, out, err = edgekit("predict", bundle.path, "--video", path, "--json", "--batch", 2)
    assert code == 0
    assert err.startswith("3 frames, ")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["video"], line["frame"]) for line in lines] == [(str(path), i) for i in range(3)]
    assert [line["seconds"] for line in lines] == pytest.approx([0, 0.1, 0.2])
    predictor = Predictor(bundle)
    for line, (blue, green, red) in zip(lines, colors, strict=True):
        expected = predictor.predict_image(Image.new("RGB", (32, 32), (red, green, blue))).classes
        assert line["classes"][0]["class"] == expected[0][0]
        assert line["classes"][0]["probability"] == pytest.approx(expected[0][1], abs=0.05)
    assert edgekit("predict", bundle.path, "--video", path, "--threshold", 1)[1].startswith(f"{path}#0  ")
    assert len(edgekit("predict", bundle.path, "--video", path.as_uri())[1].splitlines()) == 3, "a stream"
    (tmp_path / "b.avi").write_bytes(b"no video")
    for source, said in (("b.avi", "not a video"), ("c.avi", "no such file"), ("camera:99", "no such camera")):
        code, _, err = edgekit("predict", bundle.path, "--video", source if ":" in source else tmp_path / source)
        assert (code, said in err) == (2, True), err


def test_a_video_without_opencv_names_the_extra(
    bundle: Bundle, tmp_path: Path, edgekit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, _, err = edgekit("predict", bundle.path, "--video", tmp_path)
    assert code == 2
    assert err == (
        "error: a video or a camera needs OpenCV, which is not installed (install edgekit's wheel with the extra [video])\n"
    )


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_a_runtime_that_is_not_installed_names_its_extra(tmp_path: Path, photos: Path, edgekit: Command) -> None:
    bundle = make_bundle(tmp_path / "export", openvino=False)
    variant = bundle.manifest.variants[0].model_copy(update={"id": "trt-fp16", "runtime": "tensorrt"})
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"variants": [variant]}))
    for options in ([], ["--variant", "trt-fp16"]):
        code, out, err = edgekit("predict", bundle.path, photos, *options)
        assert (code, out) == (2, "")
        assert err.startswith("error: tensorrt is not installed (install edgekit's wheel with the extra [trt]")
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name images"),
        (["-", "a.jpg"], "- cannot be combined with other images"),
        (["a.jpg", "--video", "b.mp4"], "cannot be combined with IMAGE"),
        (["a.jpg", "--embedding", "-"], "needs --json"),
        (["a.jpg", "--embedding", "a.parquet"], "give a .npz or .npy file"),
        (
            ["a.jpg", "--embedding", "a.npy"],
            "onnx-fp32 has no embedding output (export the bundle again with `edgekit export RUN --embedding`)",
        ),
        (["a.jpg", "--threshold", "2"], "--threshold: 2 is not from 0 to 1"),
        (["a.jpg", "--threshold", "-0.5"], "--threshold: -0.5 is not from 0 to 1"),
    ],
)
def test_arguments_that_do_not_go_together(
    bundle: Bundle, arguments: list[str], message: str, edgekit: Command
) -> None:
    code, out, err = edgekit("predict", bundle.path, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_the_examples_of_the_documentation(
    tmp_path: Path,
    photos: Path,
    edgekit: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    require_module: Callable[[str, str], None],
) -> None:
    """docs/predict.md, block by block as it stands, in a folder with what it names."""
    require_module("cv2", "one of the examples reads a video")
    import cv2

    bundle = make_bundle(tmp_path / "export", openvino=False, embedding=True)
    shutil.make_archive(str(tmp_path / "bundle"), "zip", bundle.path)
    shutil.copy(photos / "0.jpg", tmp_path / "photo.jpg")
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    text = (Path(__file__).parents[2] / "docs" / "predict.md").read_text()
    lines = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    assert len(lines) > 5
    for line in lines:
        before, pipe, own = line.rpartition(" | ")
        if pipe:
            names = subprocess.run(["bash", "-c", before], stdout=subprocess.PIPE, check=True).stdout
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names)))
        code, out, err = edgekit(*shlex.split(own)[1:])
        assert code == 0, f"{line}: {err}"
        assert len(out.splitlines()) == (3 if "photos" in line else 1), line
    with np.load("photos.npz") as archive:
        assert archive["embeddings"].shape == (3, 8)
    exec("".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), {})
    printed = capsys.readouterr().out
    assert printed.count("photos/") == 3
    assert "unreadable" not in printed
