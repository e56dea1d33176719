"""`import edgekit`: what it loads, what it names, and how images, notebooks and scripts get along with it."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgekit
import edgekit.bench.rounds  # binds the subpackage, which is a function's name, too
from edgekit.bundle import Bundle
from edgekit.children import needs_main
from edgekit.errors import DataError, EdgekitError
from edgekit.progress import progress
from tests.helpers.tiny_bundle import make_bundle, some_images

ROOT = Path(__file__).resolve().parents[2]
COMMANDS_OF = {"bench": "bench", "embed": "embed", "evaluate": "evaluate", "export": "export", "train": "train"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "export", openvino=False)


def loaded_by(code: str) -> set[str]:
    """The modules that are in memory after some code ran in a fresh interpreter without the site's own imports."""
    code = f"import os, sys; sys.path[:] = {sys.path}; before = set(sys.modules); {code}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_edgekit_loads_nothing_but_itself() -> None:
    assert loaded_by("import edgekit") == {"edgekit", "edgekit.privacy", "openvino_telemetry"}
    heavy = {"numpy", "torch", "pydantic"}
    assert not heavy & loaded_by("import edgekit; dir(edgekit), edgekit.__version__, edgekit.train, edgekit.bench")
    assert "torch" not in loaded_by(
        "import edgekit; edgekit.load, edgekit.Bundle, edgekit.Run, edgekit.Recipe, edgekit.Result"
    )


def test_every_public_name_is_there_typed_and_documented() -> None:
    stub = ast.parse((ROOT / "src/edgekit/__init__.pyi").read_text())
    typed = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(edgekit.__all__) - {"__version__"}
    assert (ROOT / "src/edgekit/py.typed").is_file()
    modules = {a.asname: n.module for n in stub.body if isinstance(n, ast.ImportFrom) for a in n.names}
    for name in typed:
        public = getattr(edgekit, name)
        assert name in dir(edgekit)
        assert callable(public)
        assert inspect.getdoc(public)
        defined = getattr(sys.modules.get(modules[name]) or __import__(modules[name], fromlist=[name]), name)
        assert public is defined or inspect.signature(public) == inspect.signature(defined)
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        edgekit.predict  # noqa: B018


def test_a_function_and_a_subpackage_share_their_name() -> None:
    assert edgekit.bench.rounds.BenchPlan().rounds == 3
    assert isinstance(edgekit.bench, ModuleType)
    assert "quick" in inspect.signature(edgekit.bench).parameters
    code = "import edgekit; assert callable(edgekit.report); import edgekit.train.draws; assert callable(edgekit.train)"
    assert "edgekit.train.draws" in loaded_by(code)


def option_names(command: str) -> set[str]:
    """The options of a command, by their long names, as Python would write them."""
    from importlib import import_module

    params = import_module(f"edgekit.cli.{command}").command.params
    return {max(p.opts, key=len).removeprefix("--").replace("-", "_") for p in params if p.opts[0].startswith("--")}


# What has another name in Python, where the command's is a word of Python or of this function, and what only prints or lists.
OTHERWISE = {
    "train": {"set": "overrides"},
    "export": {"zip": "archive", "model": "which", "compute_capability": "compute_capabilities"},
}
NOT_IN_PYTHON = {
    "bench": {"device", "python", "wheel", "keep"}, "embed": {"neighbors"}, "export": {"list"},
    "train": set(), "evaluate": set(),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(COMMANDS_OF))
def test_a_function_takes_what_its_command_takes_with_the_same_words(name: str) -> None:
    taken = set(inspect.signature(getattr(edgekit, name)).parameters)
    renamed = OTHERWISE.get(name, {})
    said = {renamed.get(option, option) for option in option_names(name) - {"json"} - NOT_IN_PYTHON[name]}
    assert said <= taken, f"missing in Python: {said - taken}"


def test_load_takes_paths_and_bundles_and_closes_itself(bundle: Bundle) -> None:
    image = some_images(1)[0]
    with edgekit.load(bundle.path, "onnx-fp32") as predictor:
        assert repr(predictor) == "<Predictor tiny: onnx-fp32, 6 classes, 16 x 16 pixels>"
        first = predictor.predict(image)
    with pytest.raises((AttributeError, TypeError)):
        predictor.predict(image)
    with edgekit.load(bundle) as predictor:
        assert predictor.predict(image) == first
    with pytest.raises(EdgekitError, match="no such bundle"):
        edgekit.load(bundle.path / "nothing")


def test_paths_bytes_pictures_and_arrays_of_one_image_are_one_image(bundle: Bundle, tmp_path: Path) -> None:
    pixels = np.kron(some_images(1)[0], np.ones((2, 3, 1), np.uint8))  # 32 x 48
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    with edgekit.load(bundle) as predictor:
        expected = predictor.predict(path)
        assert expected.classes[0][1] > 0
        inputs = [
            str(path),
            path.read_bytes(),
            Image.open(path),
            Image.fromarray(pixels),
            pixels,
            pixels[..., ::-1][..., ::-1],
        ]
        for one in inputs:
            assert predictor.predict(one) == expected
        together = predictor.predict(inputs, batch=len(inputs))
        assert [[name for name, _ in found.classes] for found in together] == [[n for n, _ in expected.classes]] * len(
            inputs
        )
        assert predictor.predict(tuple(inputs)) == [expected] * len(inputs)
        assert predictor.predict([]) == []
        assert [answer for _, answer in predictor.predict_many(inputs)] == [expected] * len(inputs)


def test_a_picture_is_turned_as_its_file_is(bundle: Bundle, tmp_path: Path) -> None:
    pixels = np.kron(some_images(1)[0], np.ones((2, 3, 1), np.uint8))
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(pixels).save(path, exif=exif)
    with edgekit.load(bundle) as predictor:
        picture = Image.open(path)
        assert predictor.predict(picture) == predictor.predict(path)
        assert picture.size == (48, 32), "the caller's picture was changed"
        assert predictor.predict(path) != predictor.predict(pixels)


@pytest.mark.parametrize(
    ("wrong", "said", "hint"),
    [
        (np.zeros((40, 50), np.uint8), r"not uint8 \(40, 50\)", "np.repeat"),
        (np.zeros((40, 50, 1), np.uint8), r"not uint8 \(40, 50, 1\)", "np.repeat"),
        (np.zeros((40, 50, 4), np.uint8), r"not uint8 \(40, 50, 4\)", "alpha"),
        (np.zeros((3, 40, 50), np.uint8), r"not uint8 \(3, 40, 50\)", "transpose"),
        (np.zeros((40, 50, 3), np.float32), r"not float32 \(40, 50, 3\)", "astype"),
        (np.zeros((2, 40, 50, 3), np.uint8), r"not uint8 \(2, 40, 50, 3\)", "a list"),
        (np.zeros((0, 50, 3), np.uint8), r"not uint8 \(0, 50, 3\)", "at least one pixel"),
        (SimpleNamespace(pixels=[[1, 2], [3, 4]] * 1000), "not SimpleNamespace", "NumPy"),
        (None, "not NoneType", "NumPy"),
    ],
)  # fmt: skip
def test_a_wrong_array_is_one_line_without_its_pixels(bundle: Bundle, wrong: Any, said: str, hint: str) -> None:
    with edgekit.load(bundle) as predictor:
        for call in (predictor.predict, predictor.predict_image, lambda image: predictor.predict([image])):
            with pytest.raises(DataError, match=said) as error:
                call(wrong)
            assert hint in str(error.value)
            assert "\n" not in str(error.value)
            assert len(str(error.value)) < 300


def test_the_hints_for_wrong_arrays_are_right(bundle: Bundle) -> None:
    rgb = some_images(1)[0]
    gray = rgb[..., 0]
    with edgekit.load(bundle) as predictor:
        as_gray = predictor.predict(np.repeat(gray.reshape(*gray.shape[:2], 1), 3, axis=2))
        assert as_gray == predictor.predict(Image.fromarray(gray))
        planes = rgb.transpose(2, 0, 1)
        assert predictor.predict(planes.transpose(1, 2, 0)) == predictor.predict(rgb)


def test_the_image_of_a_list_that_cannot_be_read_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.fromarray(some_images(1)[0]).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-40])
    with edgekit.load(bundle) as predictor:
        with pytest.raises(DataError, match=r"image 1 of the list: .*broken\.png: not an image"):
            predictor.predict([some_images(1)[0], tmp_path / "broken.png"])
        with pytest.raises(DataError, match=r"cut\.png: cannot be decoded"):
            predictor.predict(Image.open(tmp_path / "cut.png"))


def test_files_are_not_opened_from_arrays_and_no_message_shows_pixels(bundle: Bundle) -> None:
    with pytest.raises(DataError, match="a path or bytes, not ndarray") as error:
        bundle.manifest.preprocessing.read(np.zeros((500, 500, 3), np.uint8))  # type: ignore[arg-type]
    assert len(str(error.value)) < 200


STAND_IN = (
    "stands for a notebook's IPython: what progress asks of it, by its documentation of `display` and `DisplayHandle`"
)


def test_progress_in_a_notebook_is_one_line_that_is_written_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    def display(content: object, *, display_id: bool) -> SimpleNamespace:
        assert display_id
        shown.append(repr(content))
        return SimpleNamespace(update=lambda content: shown.append(repr(content)))

    shell = SimpleNamespace(kernel=object())
    ipython, of_display = ModuleType("IPython", STAND_IN), ModuleType("IPython.display", STAND_IN)
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    of_display.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", of_display)
    with progress("train", 4, done=1, unit="steps") as advance:
        for _ in range(3):
            advance(1, "loss\n0.5")
    assert "1/4 steps" in shown[0]
    assert "4/4 steps" in shown[-1]
    assert "loss" in shown[-1]
    assert all("\n" not in line for line in shown)
    assert capsys.readouterr() == ("", "")
    del shell.kernel  # IPython in a terminal
    with progress("train", 4) as advance:
        advance(4)
    assert "4/4 steps" in shown[-1]


def test_bench_from_python_writes_what_the_command_writes(bundle: Bundle, tmp_path: Path, edgekit: Any) -> None:
    import edgekit as package

    found = package.bench(
        bundle, variant="onnx-fp32", batch=[1, 2], quick=True, seconds=0.01, threads=1, output=tmp_path / "a"
    )
    assert [type(result) for result in found] == [package.Result, package.Result]
    options = ["--variant", "onnx-fp32", "--batch", 1, "--batch", 2, "--quick", "--seconds", 0.01, "--threads", 1]
    code, _, err = edgekit("bench", bundle.path, *options, "--output", tmp_path / "b")
    assert code == 0, err
    files = {folder: sorted(p.name for p in (tmp_path / folder).glob("*.json")) for folder in "ab"}
    assert files["a"] == files["b"] == ["onnx-fp32-b1-t1.json", "onnx-fp32-b2-t1.json"]
    for name in files["a"]:
        ours, theirs = (json.loads((tmp_path / folder / name).read_text())["measurement"] for folder in "ab")
        assert ours.keys() == theirs.keys()
        for key in (
            "bundle",
            "bundle_digest",
            "variant",
            "runtime",
            "settings",
            "scenario",
            "batch",
            "threads",
            "quick",
            "golden_max_abs_diff",
        ):
            assert ours[key] == theirs[key], key
    assert package.Result.read(tmp_path / "a" / "onnx-fp32-b1-t1.json") == found[0]


def test_bench_from_python_refuses_what_the_command_refuses(bundle: Bundle, tmp_path: Path) -> None:
    for options, said in (
        ({"variant": "onnx-int4"}, "no variant onnx-int4"),
        ({"scenario": "server"}, "server scenario"),
        ({"profile": True, "scenario": "offline"}, "--profile"),
        ({"cpus": "x"}, "'x' is no processor"),
    ):
        with pytest.raises(EdgekitError, match=said):
            edgekit.bench(bundle, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_profile_from_python_is_a_result(bundle: Bundle, tmp_path: Path) -> None:
    (found,) = edgekit.bench(bundle.path, variant="onnx-fp32", profile=True, quick=True, output=tmp_path)
    assert found.measurement.kind == "profile"
    assert found.measurement.layers


def test_a_pickle_says_whether_it_needs_the_users_script() -> None:
    import pickle

    class Here:
        pass

    Here.__module__, Here.__qualname__ = "__main__", "Here"
    main = sys.modules["__main__"]
    main.Here = Here  # type: ignore[attr-defined]
    try:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert needs_main(pickle.dumps(Here(), protocol))
            assert not needs_main(pickle.dumps([Path("main"), "main", {"a": 1}], protocol))
    finally:
        del main.Here  # type: ignore[attr-defined]
