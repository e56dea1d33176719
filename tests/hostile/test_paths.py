"""Paths that lead to what never ends, or to nothing at all: every command says so in one line, at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np
import pytest
import torch  # noqa: F401 - before the clock below runs
from PIL import Image

from tests.helpers.tiny_bundle import make_bundle, write_onnx

Command = Callable[..., tuple[int, str, str]]
KINDS = ("pipe", "/dev/zero", "/dev/urandom", "loop", "socket-less/nowhere")
_HANGS = 120  # seconds: none of these commands reads anything


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    """Whatever waits for a pipe would wait for ever, and the tests with it."""

    def hangs(number: int, frame: FrameType | None) -> NoReturn:
        pytest.fail("the command hangs", pytrace=False)

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(_HANGS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a model, images of two classes, and pipes of every kind of name."""
    folder = tmp_path_factory.mktemp("paths")
    make_bundle(folder / "bundle", openvino=False)
    write_onnx(folder / "model.onnx")
    random = np.random.default_rng(0)
    for name in "ab":
        (folder / "images" / name).mkdir(parents=True)
        for i in range(4):
            pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{i}.png")
    for suffix in ("", ".onnx", ".safetensors", ".zip", ".png", ".json", ".tar", ".parquet", ".csv"):
        os.mkfifo(folder / f"pipe{suffix}")
    (folder / "loop").symlink_to("loop")
    return folder


def one_line(edgekit: Command, *arguments: object, code: int = 2, says: str = "") -> None:
    left, out, err = edgekit(*arguments)
    assert left == code, (arguments, out + err)
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("error: ")
    assert says in err
    assert err.count("cannot be read") <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_on_what_is_no_file(
    kind: str, edgekit: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / kind
    images, one = folder / "images", folder / "images" / "a" / "0.png"
    monkeypatch.chdir(folder)
    for command in (
        ("train", path), ("ablate", "seed=1,2", path), ("report", path), ("compare", path, path), ("evaluate", path), ("embed", path, images),
        ("transfer", path, images), ("init", path), ("bench", path), ("doctor", path), ("predict", path, one),
        ("predict", "bundle", "--video", path), ("export", path),
    ):  # fmt: skip
        one_line(edgekit, *command)
    one_line(edgekit, "predict", "bundle", path, code=1)  # as for every image that cannot be read


@pytest.mark.parametrize("kind", KINDS)
def test_an_option_that_names_what_is_no_file(kind: str, edgekit: Command, folder: Path, tmp_path: Path) -> None:
    path, images, model, out = folder / kind, folder / "images", folder / "model.onnx", tmp_path / "out"
    for option, more in (
        ("--classes", ["--calibrate", images]),
        ("--calibrate", []),
        ("--evaluate", ["--calibrate", images]),
    ):
        one_line(edgekit, "export", model, option, path, *more, "--output", out)
    named = ("export", "timm:resnet10t", "--size", 32, "--calibrate", images, "--output", out)
    one_line(edgekit, *named, "--weights", path, says="--weights")
    assert not out.exists()


@pytest.mark.parametrize("name", ["pipe.onnx", "pipe.safetensors", "pipe.zip"])
def test_a_model_that_is_a_pipe(name: str, edgekit: Command, folder: Path, tmp_path: Path) -> None:
    one_line(edgekit, "export", folder / name, "--calibrate", folder / "images", "--output", tmp_path / "out")
    one_line(edgekit, "predict", folder / name, folder / "images" / "a" / "0.png")


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("data.pool", "pipe.tar"), ("data.pool", "pipe.parquet"), ("data.pool", "/dev/zero"), ("data.pool", "loop"), ("data.labeled", "pipe.tar"),
        ("data.labeled", "/dev/zero"), ("data.labels", "pipe.csv"), ("data.labels", "/dev/zero"), ("pretrain.encoder.weights", "pipe"),
        ("pretrain.encoder.weights", "/dev/zero"), ("distill.student.weights", "loop"), ("data.class_names", "pipe"),
    ],
)  # fmt: skip
def test_a_recipe_that_names_what_is_no_file(
    key: str, path: str, edgekit: Command, folder: Path, tmp_path: Path
) -> None:
    values = {"name": "x", "data": {"labeled": str(folder / "images"), "labels": 0.5, "test": 0.25, "image_size": 16}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    epochs = [f"--set={stage}.epochs=1" for stage in ("pretrain", "finetune", "distill", "supervised")]
    arguments = (tmp_path / "recipe.yaml", "--run", tmp_path / "run", "--set", f"{key}={folder / path}", *epochs)
    if key == "data.class_names":  # of images whose labels are numbers
        pytest.importorskip("pyarrow")
        one_line(edgekit, "train", *arguments, f"--set=data.labeled={_numbered(tmp_path)}")
    else:
        one_line(edgekit, "train", *arguments)


def _numbered(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    encoded = [{"bytes": _png(i), "path": None} for i in range(8)]
    pq.write_table(pa.table({"image": encoded, "label": [0, 1] * 4}), folder / "t.parquet")
    return folder / "t.parquet"


def _png(seed: int) -> bytes:
    import io

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(stream, "png")
    return stream.getvalue()


def test_a_link_that_leads_to_itself_in_a_folder_is_an_image_that_cannot_be_read(
    edgekit: Command, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "a").symlink_to(folder / "images" / "a")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "round").mkdir()
    (tmp_path / "round" / "back").symlink_to("..")
    (tmp_path / "nowhere").symlink_to("nowhere")
    code, out, err = edgekit("predict", folder / "bundle", tmp_path)
    assert code == 1
    assert err.count("loop.png") == 1
    assert len([line for line in out.splitlines() if ".png" in line and "loop" not in line]) == 4
    (tmp_path / "b").symlink_to(folder / "images" / "b")
    code, out, err = edgekit("init", tmp_path, "--no-measure")
    assert code == 0, err


def test_a_recipe_through_a_pipe_of_the_shell_is_read(folder: Path, tmp_path: Path) -> None:
    """`edgekit train <(sed …)`: a pipe without a name, which ends when its writer does."""
    script = "import sys; from edgekit import recipe; print(recipe.load(sys.argv[1]).name)"
    command = f"{sys.executable} -c '{script}' <(echo '{{name: from-a-pipe, data: {{labeled: digits}}}}')"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=_HANGS)
    assert done.stdout == "from-a-pipe\n"
