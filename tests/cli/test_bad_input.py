"""Wrong input, as a user meets it: the command says what, where and what to do in one line, and exits with 2."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from PIL import Image

from edgekit.cli import main as command_line
from edgekit.errors import EdgekitError
from edgekit.export.inputs import ExportOptions
from tests.helpers.click_runner import as_command
from tests.helpers.recipe_changes import changed
from tests.helpers.tiny_bundle import make_bundle

Run = Callable[..., tuple[int, str]]

RECIPE = {
    "name": "photos",
    "data": {"labeled": "photos", "image_size": 16, "labels": 2, "test": 0.2, "probe": 0.2},
    "pretrain": {
        "encoder": {"name": "resnet10", "width": 0.125},
        "batch_size": 8,
        "epochs": 1,
        "optimizer": {"warmup_epochs": 0},
    },
    "finetune": {"epochs": 1},
    "distill": {
        "student": {"name": "resnet10", "width": 0.125},
        "batch_size": 8,
        "epochs": 1,
        "optimizer": {"warmup_epochs": 0},
    },
    "supervised": {"enabled": False},
    "hardware": {"accelerator": "cpu"},
}


@pytest.fixture
def edgekit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in an empty folder; gives the exit code and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEKIT_DEBUG", "")  # and whatever --debug makes of it is undone

    return lambda *arguments: as_command([*arguments], monkeypatch, capsys)


def photos(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 20) -> None:
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")


def write(**changes: object) -> str:
    Path("recipe.yaml").write_text(yaml.safe_dump(changed(RECIPE, **changes)))
    return "recipe.yaml"


def refused(result: tuple[int, str], *parts: str) -> None:
    """Exit code 2 and one `error:` line that holds every part."""
    code, text = result
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert code == 2, text
    assert len(lines) == 1, text
    assert "Traceback" not in text
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["benhc"], "no such command 'benhc' (did you mean bench?)"),
        (["--frob"], "no such option --frob (see edgekit --help)"),
        (["doctor", "--variants", "x"], "no such option --variants (did you mean --variant?)"),
        (["bench", "--debug", "B"], "no such option --debug (put it before the command: edgekit --debug bench …)"),
        (["bench", "B", "--scenario", "ofline"],
         "--scenario: 'ofline' is not one of single-stream, multi-stream, offline, server (did you mean offline?)"),
        (["bench", "B", "--provider", "x"], "--provider: 'x' is not one of cpu, cuda, tensorrt, openvino, gpu, npu (see edgekit bench --help)"),
        (["bench", "B", "--provider"], "option '--provider' requires an argument (it takes one of cpu, cuda, tensorrt, openvino, gpu, npu)"),
        (["bench", "B", "--quick=3"], "option '--quick' does not take a value (see edgekit bench --help)"),
        (["bench", "B", "--batch", "x"], "--batch: 'x' is not a whole number of at least 1 (see edgekit bench --help)"),
        (["train", "R", "--devices", "0"], "--devices: 0 is not a whole number of at least 1 (see edgekit train --help)"),
        (["bench", "B", "--seconds", "0"], "--seconds: 0.0 is not a number above 0 (see edgekit bench --help)"),
        (["bench", "B", "--seconds", "inf"], "--seconds: 'inf' is not a number above 0 (see edgekit bench --help)"),
        (["predict", "B", "x.png", "--threshold", "nan"], "--threshold: 'nan' is not a number (see edgekit predict --help)"),
        (["gallery", "test", "B", "G", "F", "--threshold", "nan"],
         "--threshold: 'nan' is not a number of at least -1 and at most 1 (see edgekit gallery test --help)"),
        (["transfer", "R", "F", "--test", "nan"], "--test: 'nan' is not a number above 0 and below 1 (see edgekit transfer --help)"),
        (["bench", "B", "--wheel", "none.whl"], "--wheel: file 'none.whl' does not exist (see edgekit bench --help)"),
        (["bench", "B", "--profile", "--loadgen"],
         "--profile cannot be combined with --scenario or --loadgen: leave them out (see edgekit bench --help)"),
        (["bench", "B", "--scenario", "server", "--rate", "inf"], "--rate: 'inf' is not a number above 0 (see edgekit bench --help)"),
        (["export", "R", "--max-drop", "nan"], "--max-drop: 'nan' is not a number of at least 0 and at most 100 (see edgekit export --help)"),
        (["predict", "B", "a.png", "--abstain-below", "nan"], "--abstain-below: 'nan' is not a number (see edgekit predict --help)"),
        (["evaluate", "R", "--few-shot", "0"],
         "--few-shot: '0' is not a list of positive whole numbers such as 1,5,10 (see edgekit evaluate --help)"),
        (["export", "R", "--image-size", "3"], "--image-size: '3' is not possible: sides are from 4 to 4096 pixels (see edgekit export --help)"),
        (["compare", "A"], "AFTER is missing (usage: edgekit compare [OPTIONS] BEFORE AFTER)"),
        (["completion"], "SHELL is missing, one of bash, zsh, fish (usage: edgekit completion [OPTIONS] {bash|zsh|fish})"),
        (["report", "R", "S"], "got unexpected extra argument (S) (see edgekit report --help)"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_line(edgekit: Run, arguments: list[str], line: str) -> None:
    assert edgekit(*arguments) == (2, f"error: {line}\n")
    assert edgekit("--debug", *arguments) == (2, f"error: {line}\n")  # no bug: there is no traceback to show


def _options(command: click.Command) -> list[click.Parameter]:
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return [*command.params, *(option for part in below for option in _options(part))]


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_no_option_takes_a_number_that_is_not_finite(name: str) -> None:
    """No comparison with nan is true, so that a bound of nan is no bound: `--max-drop nan` let every variant pass."""
    for option in _options(importlib.import_module(f"edgekit.cli.{name}").command):
        if isinstance(option.type, type(click.FLOAT)):
            for value in ("nan", "inf", "-inf"):
                with pytest.raises(click.BadParameter):
                    option.type.convert(value, option, None)


@pytest.mark.parametrize(
    "wrong", [{"max_drop": float("nan")}, {"max_drop": -1}, {"min_agreement": 2}, {"search_minutes": float("nan")}]
)
def test_from_python_too(wrong: dict[str, float]) -> None:
    with pytest.raises(EdgekitError, match=next(iter(wrong))):
        ExportOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [["predict", "runs/a", "x.png"], ["bench", "runs/a"], ["doctor", "runs/a"]])
def test_a_run_in_place_of_its_bundle(edgekit: Run, tmp_path: Path, command: list[str]) -> None:
    make_bundle(tmp_path / "runs" / "a" / "export")
    refused(edgekit(*command), "runs/a: not a bundle, it has no bundle.json", "did you mean runs/a/export?")


@pytest.mark.parametrize(
    "command",
    [
        ["train", "runs/a"],
        ["ablate", "augmentations", "runs/a"],
        ["search", "runs/a", "--budget", "p50 < 5 ms"],
        ["augment", "preview", "runs/a"],
    ],
)
def test_a_run_in_place_of_its_recipe(edgekit: Run, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "runs" / "a" / "data").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "data" / "stage.json").touch()
    (tmp_path / "runs" / "a" / "recipe.yaml").touch()
    refused(edgekit(*command), "runs/a: a run, not a recipe", "`edgekit train runs/a/recipe.yaml`")


def test_a_list_from_a_closed_standard_input(edgekit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "b")
    monkeypatch.setattr(sys, "stdin", None)  # as Python sets it
    refused(edgekit("predict", "b", "-"), "-: standard input is closed")


def test_missing_recipe(edgekit: Run) -> None:
    refused(edgekit("train", "nothing.yaml"), "nothing.yaml", "edgekit init")


def test_missing_folder(edgekit: Run) -> None:
    refused(edgekit("train", write()), "photos: no such folder")


def test_empty_folder(edgekit: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    refused(edgekit("train", write()), "photos", "no")


def test_one_class_only(edgekit: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos", ("cat",))
    refused(edgekit("train", write()), "cat")


def test_a_class_with_fewer_images_than_the_budget_asks(edgekit: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    photos(tmp_path / "photos", ("owl",), count=4)
    refused(edgekit("train", write(data__labels=10)), "owl", "10")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"pretrain__encoder__name": "resnet81"}, ("pretrain.encoder.name", "resnet81", "did you mean", "resnet18")),
        ({"finetune__keep_projection_layers": 3}, ("finetune.keep_projection_layers", "3 layers", "0 to 2")),
        ({"distill__student": {"name": "mobilenet_v3_small", "width": 1.0}}, ("data.image_size", "16 px", "too small", "mobilenet_v3_small")),
        ({"pretrain__batch_size": 512}, ("pretrain.batch_size is 512", "the pool has")),
        ({"pretrain__temprature": 0.5}, ("unknown key pretrain.temprature", "did you mean temperature?")),  # codespell:ignore
        ({"pretrain__epochs": "many"}, ("pretrain.epochs", "many")),
    ],
)  # fmt: skip
def test_impossible_recipes(edgekit: Run, tmp_path: Path, changes: dict[str, object], parts: tuple[str, ...]) -> None:
    photos(tmp_path / "photos")
    refused(edgekit("train", write(**changes)), *parts)
    assert not list(tmp_path.glob("runs/**/*.safetensors"))


def test_unwritable_run_folder(edgekit: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "file").write_text("not a folder")
    refused(edgekit("train", write(), "--run", "file/run"), "file/run", "--run")


def test_too_many_unreadable_files(edgekit: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    for i in range(5):
        (tmp_path / "photos" / "cat" / f"{i}.png").write_bytes(b"not an image")
    refused(edgekit("train", write()), "5 of 40")


def test_damaged_checkpoint(edgekit: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    recipe = write()
    assert edgekit("train", recipe)[0] == 0
    folder = tmp_path / "runs" / "photos" / "pretrain"
    record = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").unlink()  # as if it had been interrupted
    (folder / "started.json").write_text(json.dumps({"digest": record["digest"]}))
    (folder / "last.ckpt").write_bytes(os.urandom(500))
    refused(edgekit("train", recipe), "last.ckpt", "damaged checkpoint", "delete it")


@pytest.mark.parametrize("command", ["evaluate", "export", "report"])
def test_commands_on_what_is_no_run(edgekit: Run, tmp_path: Path, command: str) -> None:
    refused(edgekit(command, "runs/none"), "runs/none")
    (tmp_path / "empty").mkdir()
    refused(edgekit(command, "empty"), "empty")


@pytest.mark.parametrize("command", [["evaluate"], ["report"], ["transfer"], ["embed"], ["label", "suggest"]])
def test_a_recipe_in_place_of_its_run(edgekit: Run, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "recipe.yaml").write_text("data: {labeled: digits}")
    images = ["photos"] if command[0] in ("transfer", "embed") else []
    refused(edgekit(*command, "recipe.yaml", *images), "recipe.yaml: a file, not a run (give the folder")


def test_evaluate_names_the_stage_that_is_missing(edgekit: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    assert edgekit("train", write(), "--until", "pretrain")[0] == 0
    refused(edgekit("evaluate", "runs/photos"), "finetune is not complete", "edgekit train")
    refused(edgekit("export", "runs/photos"), "distill is not complete", "edgekit train")


@pytest.mark.parametrize("command", ["bench", "predict"])
def test_a_bundle_with_a_changed_byte(edgekit: Run, tmp_path: Path, command: str) -> None:
    make_bundle(tmp_path / "bundle", openvino=False)
    photos(tmp_path / "photos")
    model = tmp_path / "bundle" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    arguments = ["bundle", "photos"] if command == "predict" else ["bundle", "--quick"]
    refused(edgekit(command, *arguments), "model.onnx", "changed since the export")


@pytest.mark.parametrize("command", ["bench", "predict"])
def test_a_bundle_of_a_newer_schema(edgekit: Run, tmp_path: Path, command: str) -> None:
    make_bundle(tmp_path / "bundle", openvino=False)
    photos(tmp_path / "photos")
    manifest = tmp_path / "bundle" / "bundle.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 4}))
    arguments = ["bundle", "photos"] if command == "predict" else ["bundle", "--quick"]
    refused(edgekit(command, *arguments), "schema is 4", "update edgekit")


def test_predict_refuses_thousands_of_threads(edgekit: Run) -> None:
    refused(
        edgekit("predict", "bundle", "photo.jpg", "--threads", "99999"), "--threads 99999 is too many: this machine has"
    )


def test_results_that_could_not_be_kept_are_not_measured(edgekit: Run, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", openvino=False)
    (tmp_path / "file").touch()
    for output in ("file", "file/bench"):
        code, text = edgekit("bench", "bundle", "--output", output)
        refused((code, text), f"{output}: ", "is not a folder", "give another --output")
        assert "rounds" not in text  # the progress of a measurement
    (tmp_path / "locked").mkdir(mode=0o500)
    if not os.access(tmp_path / "locked", os.W_OK):  # root may write anywhere
        refused(edgekit("bench", "bundle", "--output", "locked/bench"), "no permission to write into")


@pytest.mark.parametrize(
    "arguments",
    [["init", "photos"], ["gallery", "create", "bundle", "photos"], ["augment", "preview", "recipe.yaml"], ["report", "run"]],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_a_file_that_could_not_be_written_is_refused_before_its_work(edgekit: Run, arguments: list[str]) -> None:
    """What the work needs is missing, too: the refusal of the output comes first."""
    write()
    Path("file").touch()
    refused(edgekit(*arguments, "--output", "file/output"), "file/output: ", "is not a folder", "give another --output")
    Path("folder").mkdir()
    refused(edgekit(*arguments, *(["--replace"] if arguments[0] == "gallery" else []), "--output", "folder"), "folder")
    assert not any(Path("folder").iterdir())


def test_debug_shows_the_traceback() -> None:
    command = [sys.executable, "-m", "edgekit", "--debug", "train", "nothing.yaml"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
