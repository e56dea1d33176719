"""`import edgekit`: what it loads, what it names, and how images, notebooks and scripts get along with it."""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
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
from edgekit.terminal import echo
from tests.helpers.tiny_bundle import make_bundle, some_images

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {"bench", "embed", "evaluate", "export", "search", "train"}


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
    "search": {"set": "overrides"},
    "export": {"zip": "archive", "model": "which", "compute_capability": "compute_capabilities"},
}
NOT_IN_PYTHON = {"export": {"list"}}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_function_takes_what_its_command_takes_with_the_same_words(name: str) -> None:
    taken = set(inspect.signature(getattr(edgekit, name)).parameters)
    renamed = OTHERWISE.get(name, {})
    said = {renamed.get(option, option) for option in option_names(name) - {"json"} - NOT_IN_PYTHON.get(name, set())}
    assert said <= taken, f"missing in Python: {said - taken}"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"variant": "onnx-fp32", "threads": 2, "quick": True, "seconds": 0.5, "cpus": [3, 0, 1]},
        {"variant": ["onnx-fp32", "onnx-int8"], "batch": (1, 8), "provider": "cuda", "cpus": "0-2"},
        {"scenario": "server", "find_rate": 20.5, "streams": 0, "seed": 7, "loadgen": True},
        {"scenario": "multi-stream", "query": 4},
        {"batch": 4, "profile": True},
    ],
)
def test_a_device_is_told_what_the_function_was_told(given: dict[str, Any]) -> None:
    from edgekit.api.benching import _words
    from edgekit.bench.bundle_bench import processor_list
    from edgekit.cli.bench import command

    signature = inspect.signature(edgekit.bench)
    bound = signature.bind("bundle.zip", device="ssh://pi", keep=True, output="here", **given)
    bound.apply_defaults()
    understood = command.make_context("bench", ["bundle.zip", *_words(bound.arguments)]).params
    names = {"variant": "names", "batch": "batches", "find_rate": "bound_ms"}
    for name in signature.parameters.keys() - {"bundle", "device", "python", "wheel", "keep", "output"}:
        said, meant = understood[names.get(name, name)], bound.arguments[name]
        if name == "cpus":
            said, meant = processor_list(said), processor_list(meant) if isinstance(meant, str) else sorted(meant or ())
        if name in {"variant", "batch", "cpus"}:
            said, meant = list(said), list(meant) if isinstance(meant, (list, tuple)) else [meant]
        assert said == meant, name
    assert not understood["devices"]
    assert understood["output"] is None


def test_options_of_devices_without_a_device_are_refused(bundle: Bundle) -> None:
    for option in ({"keep": True}, {"python": "python3"}, {"wheel": "edgekit.whl"}):
        with pytest.raises(EdgekitError, match="name one with --device"):
            edgekit.bench(bundle, **option)
    with pytest.raises(EdgekitError, match="pi: not an address"):
        edgekit.bench(bundle, device="pi")


def test_export_takes_all_targets_as_the_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    from edgekit import targets
    from edgekit.api.export_options import chosen_targets
    from edgekit.export.listing import why_not_made

    made = [name for name, target in targets.every().items() if not why_not_made(target)]
    assert {"onnx", "openvino"} <= set(made)
    assert chosen_targets("all") == chosen_targets(["onnx", "all"]) == tuple(made)
    said = capsys.readouterr().err
    assert all((f"{name} is left out: " in said) == (name not in made) for name in targets.every())
    assert chosen_targets(["openvino", "onnx", "openvino"]) == ("openvino", "onnx")
    assert chosen_targets("trt") == ("trt",)
    assert chosen_targets(()) == targets.DEFAULT_TARGETS
    for capabilities in ("8.6", ["8.6", "8.9"]):
        with pytest.raises(EdgekitError, match="--compute-capability is of --target trt-rtx alone"):
            edgekit.export("runs/none", compute_capabilities=capabilities)
        with pytest.raises(EdgekitError, match="no such run"):
            edgekit.export("runs/none", target=["onnx", "trt-rtx"], compute_capabilities=capabilities)


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


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A notebook's kernel: its `shell`, and its cells' `lines`, each with all that it has shown."""
    lines: list[list[str]] = []

    def display(content: object, *, display_id: bool) -> SimpleNamespace:
        assert display_id
        line = [repr(content)]
        lines.append(line)
        return SimpleNamespace(update=lambda content: line.append(repr(content)))

    shell = SimpleNamespace(kernel=object(), execution_count=1)
    ipython, of_display = ModuleType("IPython", STAND_IN), ModuleType("IPython.display", STAND_IN)
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    of_display.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", of_display)
    monkeypatch.setattr("edgekit.progress._over", None)
    return SimpleNamespace(shell=shell, lines=lines)


def test_progress_in_a_notebook_is_one_line_that_is_written_anew(
    notebook: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("train", 4, done=1, unit="steps") as advance:
        for _ in range(3):
            advance(1, "loss\n0.5")
    [shown] = notebook.lines
    assert "1/4 steps" in shown[0]
    assert "4/4 steps" in shown[-1]
    assert "loss" in shown[-1]
    assert all("\n" not in line for line in shown)
    assert capsys.readouterr() == ("", "")
    del notebook.shell.kernel  # IPython in a terminal
    with progress("train", 4) as advance:
        advance(4)
    assert len(notebook.lines) == 1


def test_work_that_is_over_at_once_leaves_its_line_in_the_notebook_to_the_next(
    notebook: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(title: str) -> None:
        with progress(title, 4) as advance:
            advance(4)

    def last() -> list[str]:
        return [line[-1].split()[0] for line in notebook.lines]

    monkeypatch.setattr("edgekit.progress._SHORT_SECONDS", math.inf)
    for title in ("kNN", "test", "advice"):
        work(title)
    assert last() == ["advice"]
    echo("an error", err=True)  # what comes next belongs below it
    work("teacher")
    assert last() == ["advice", "teacher"]
    with progress("outer", 2) as advance:  # in the line of `teacher`
        work("inner")
        advance(2)
    assert last() == ["advice", "outer", "inner"]
    notebook.shell.execution_count = 2  # another cell
    work("student")
    assert last() == ["advice", "outer", "inner", "student"]
    monkeypatch.setattr("edgekit.progress._SHORT_SECONDS", 0)
    notebook.shell.execution_count = 3
    for title in ("pretrain", "finetune"):
        work(title)
    assert last() == ["advice", "outer", "inner", "student", "pretrain", "finetune"]


def test_what_a_notebook_shows_of_an_object_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    assert repr(bundle).startswith(f"<Bundle tiny in {bundle.path}: onnx-fp32 verified")
    [result] = edgekit.bench(bundle, variant="onnx-fp32", quick=True, seconds=0.01, output=tmp_path)
    assert re.fullmatch(r"<Result latency of onnx-fp32, batch 1: p50 \S+ ms, \S+ images/s>", repr(result))
    assert str(result) == repr(result)


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
        ({"cpus": "x"}, "'x' is not a processor number"),
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
