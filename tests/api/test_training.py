"""Training, evaluation, features, export and report from Python: the same files as the commands write, and networks in plain PyTorch."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import edgekit
from edgekit.errors import DataError, ExportError, GateFailed, RecipeError, RunError
from edgekit.export.pipeline import export_classifier
from edgekit.recipe import load
from edgekit.run import STAGES
from tests.helpers import exported
from tests.helpers.recipe_changes import TINY, changed

Command = Callable[..., tuple[int, str, str]]
SHORT = changed(TINY, pretrain__epochs=1, pretrain__optimizer={"warmup_epochs": 0}, distill__epochs=1,
                distill__optimizer={"warmup_epochs": 0}, finetune__epochs=1, supervised__epochs=1, hardware__threads=1)  # fmt: skip
DIGITS = {"data": {"labeled": "digits"}}
command_line = pytest.fixture(lambda edgekit: edgekit)  # the command, under a name that is not the package's


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> edgekit.Run:
    return edgekit.train(SHORT, run=tmp_path_factory.mktemp("runs") / "short")


@pytest.fixture(scope="module")
def student_run(tmp_path_factory: pytest.TempPathFactory) -> edgekit.Run:
    """A run whose student can tell digits apart."""
    return edgekit.Run(exported.write_run(tmp_path_factory.mktemp("student") / "digits").path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (12, 20, 24, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


def without(content: Any, *keys: str) -> Any:
    """JSON without what says when and how it was made."""
    if isinstance(content, dict):
        return {key: without(value, *keys) for key, value in content.items() if key not in keys}
    return [without(value, *keys) for value in content] if isinstance(content, list) else content


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_train_and_evaluate_write_what_the_commands_write(
    trained: edgekit.Run, tmp_path: Path, command_line: Command
) -> None:
    assert isinstance(trained, edgekit.Run)
    assert repr(trained) == f"<Run {trained.path}: data, pretrain, finetune, distill, supervised complete>"
    edgekit.Recipe.read(SHORT).write(tmp_path / "recipe.yaml")
    code, _, err = command_line("train", tmp_path / "recipe.yaml", "--run", tmp_path / "run")
    assert code == 0, err
    other = edgekit.Run(tmp_path / "run")
    assert other.recipe_path.read_text() == trained.recipe_path.read_text()
    for stage in [stage for stage in STAGES if stage != "anomaly"]:
        ours, theirs = trained.require(stage), other.require(stage)
        assert ours.digest == theirs.digest
        weights = {
            name: digest for name, digest in ours.outputs.items() if name != "history.csv"
        }  # which holds seconds
        assert weights == {name: digest for name, digest in theirs.outputs.items() if name != "history.csv"}

    result = edgekit.evaluate(trained, few_shot=[1], draws=2)
    assert edgekit.Result.read(trained.path / "evaluate" / "evaluation.json") == result
    code, _, err = command_line("evaluate", tmp_path / "run", "--few-shot", "1", "--draws", "2")
    assert code == 0, err
    when = ("created", "command", "run", "sha256", "machine")
    mine, its = (without(read(run.path / "evaluate" / "evaluation.json"), *when) for run in (trained, other))
    assert mine == its

    again: list[tuple[str, str]] = []
    edgekit.train(
        trained.recipe_path, run=trained, on_stage=lambda report, draw: again.append((report.stage, report.outcome))
    )
    assert again == [(stage, "skipped") for stage in STAGES if stage != "anomaly"]


@pytest.mark.extra
def test_training_in_two_processes_from_python_leaves_this_one_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import lightning  # noqa: F401 - importing it sets a variable of PyTorch's, whatever is trained

    before = dict(os.environ), signal.getsignal(signal.SIGINT), logging.root.manager.disable
    stages: list[tuple[str, str, int]] = []
    script = changed(SHORT, pretrain__batch_size=64)
    run = edgekit.train(
        script, run=tmp_path / "run", devices=2, until="pretrain",
        on_stage=lambda report, draw: stages.append((report.stage, report.outcome, draw)),
    )  # fmt: skip
    assert stages == [("data", "done", 0), ("pretrain", "done", 0)]
    assert run.require("pretrain").metrics["loss"] > 0
    after = dict(os.environ), signal.getsignal(signal.SIGINT), logging.root.manager.disable
    assert {k: v for k, v in after[0].items() if k not in {"OMP_WAIT_POLICY", "OMP_NUM_THREADS"}} == {
        k: v for k, v in before[0].items() if k not in {"OMP_WAIT_POLICY", "OMP_NUM_THREADS"}
    }
    assert after[1:] == before[1:]
    with pytest.raises(edgekit.EdgekitError, match="nothing"):
        edgekit.train(changed(script, data__labeled=str(tmp_path / "nothing")), run=tmp_path / "b", devices=2)
    assert "Traceback" not in capsys.readouterr().err


def test_wrong_arguments_of_train_are_one_line(tmp_path: Path) -> None:
    for arguments, options, said in (
        (({"name": "x", "pretrian": {}},), {}, "pretrian"),
        ((42,), {}, "a recipe must be a path, a dictionary or an edgekit.Recipe, not int"),
        ((tmp_path / "nothing.yaml",), {}, "no such recipe"),
        (({},), {}, "data names no images"),
        ((DIGITS,), {"until": "pretraining"}, "'pretraining' is not a stage"),
        ((DIGITS,), {"draws": 3, "until": "pretrain"}, "leave until out"),
        ((DIGITS,), {"overrides": {"data.labels": 3, "data.labels.x": 3}}, "is a value, not a group of keys"),
        ((DIGITS,), {"overrides": ["data.labels"]}, "key.path=value"),
    ):
        with pytest.raises(RecipeError, match=said) as error:
            edgekit.train(*arguments, run=tmp_path / "run", **options)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_recipe_is_the_same_from_a_file_a_dictionary_and_overrides(tmp_path: Path) -> None:
    given = {"name": "x", **DIGITS, "pretrain": {"method": "moco", "epochs": 7}}
    recipe = edgekit.Recipe.read(given)
    recipe.write(tmp_path / "recipe.yaml")
    assert edgekit.Recipe.read(tmp_path / "recipe.yaml") == load(tmp_path / "recipe.yaml") == recipe
    (tmp_path / "short.yaml").write_text("name: x\ndata: {labeled: digits}\npretrain: {method: moco}\n")
    for overrides in ({"pretrain.epochs": 7}, ["pretrain.epochs=7"], "pretrain.epochs=7"):
        assert edgekit.Recipe.read(tmp_path / "short.yaml", overrides) == recipe
    assert given == {"name": "x", **DIGITS, "pretrain": {"method": "moco", "epochs": 7}}, (
        "the caller's dictionary was changed"
    )


def test_a_trained_model_is_one_line(student_run: edgekit.Run, tmp_path: Path) -> None:
    model = student_run.student()
    assert isinstance(model, nn.Module)
    assert not model.training
    assert model.classes == exported.splits().classes
    test = exported.splits().test
    pixels = torch.from_numpy(test.images[:64].copy())
    with torch.no_grad():
        logits = model(model.normalize(pixels))
        assert torch.equal(logits, exported.pixels()(pixels))
        assert model.embed(model.normalize(pixels)).shape == (64, model.feature_dim)
    assert (logits.argmax(1).numpy() == test.labels[:64]).mean() > 0.8
    path = tmp_path / "digit.png"
    Image.fromarray(np.kron(test.images[0], np.ones((2, 2, 1), np.uint8))).save(path)
    whole = model.transform(path)
    assert whole.shape == (3, 16, 16)
    assert whole.dtype == torch.float32
    expected = model.normalize(torch.from_numpy(exported.RECIPE.data.preprocessing().read(path).copy())[None])[0]
    for same in (path, str(path), path.read_bytes(), Image.open(path), np.asarray(Image.open(path))):
        assert torch.equal(model.transform(same), expected)
    assert student_run.teacher().classes == model.classes
    encoder = student_run.encoder()
    assert encoder.classes == []
    assert encoder(whole[None]).shape == (1, encoder.feature_dim)


def test_a_network_of_a_run_refuses_what_was_not_normalized(student_run: edgekit.Run) -> None:
    model = student_run.student()
    for wrong in (torch.zeros(1, 16, 16, 3, dtype=torch.uint8), torch.zeros(3, 16, 16), torch.zeros(1, 16, 16, 3)):
        for call in (model, model.embed):
            with pytest.raises(DataError, match=r"takes normalized images, floating point \(n, 3, h, w\)") as error:
                call(wrong)
            assert "transform" in error.value.hint
    with pytest.raises(DataError, match=r"uint8 pixels \(n, height, width, 3\), not float32 \(1, 3, 16, 16\)"):
        model.normalize(torch.zeros(1, 3, 16, 16))


def test_a_network_that_is_not_there_is_one_line(tmp_path: Path, student_run: edgekit.Run) -> None:
    for network in ("student", "teacher", "supervised", "encoder"):
        with pytest.raises(RunError, match="no such run"):
            getattr(edgekit.Run(tmp_path / "nothing"), network)()
    with pytest.raises(RunError, match="the stage supervised is not complete"):
        student_run.supervised()


def test_a_network_of_a_run_trains_on(student_run: edgekit.Run) -> None:
    encoder = student_run.encoder().train()
    encoder(torch.rand(4, 3, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.slow
def test_export_writes_what_the_command_writes(student_run: edgekit.Run, tmp_path: Path, command_line: Command) -> None:
    ours = edgekit.export(student_run, target="onnx", precision="fp32", output=tmp_path / "a", archive=True)
    code, _, err = command_line(
        "export", student_run.path, "--target", "onnx", "--precision", "fp32", "--output", tmp_path / "b", "--zip"
    )
    assert code == 0, err
    theirs = edgekit.Bundle.open(tmp_path / "b")
    assert {p.name for p in ours.path.iterdir()} == {p.name for p in theirs.path.iterdir()}
    made = [without(read(b.path / "bundle.json"), "created", "command") for b in (ours, theirs)]
    assert made[0] == made[1]
    assert (tmp_path / "a.zip").is_file()
    assert (tmp_path / "b.zip").is_file()
    with edgekit.load(tmp_path / "a.zip") as predictor:
        image = exported.splits().test.images[0]
        with torch.no_grad():
            model = student_run.student()
            answer = model.classes[int(model(model.normalize(torch.from_numpy(image.copy())[None])).argmax())]
        assert predictor.predict(image, top=1).classes[0][0] == answer


def test_a_rejected_variant_raises_and_is_in_the_bundle(
    student_run: edgekit.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported.calibrate_on_black(monkeypatch)
    wanted: dict[str, Any] = {"target": "onnx", "precision": "int8", "output": tmp_path / "out", "search_minutes": 0}
    with pytest.raises(GateFailed, match="onnx-int8"):
        edgekit.export(student_run, min_agreement=1, **wanted)
    wanted["min_agreement"] = 1
    bundle = edgekit.export(student_run, **wanted, gate=False)
    assert [variant.status for variant in bundle.manifest.variants] == ["rejected"]


@pytest.mark.slow
def test_a_network_of_ones_own_is_exported_as_it_is(student_run: edgekit.Run, photos: Path, tmp_path: Path) -> None:
    model = student_run.student()
    bundle = edgekit.export(model, target="onnx", precision="fp32", calibrate=photos, output=tmp_path / "run")
    assert bundle.manifest.classes == model.classes
    assert bundle.manifest.preprocessing == model.preprocessing
    assert bundle.manifest.provenance["weights_sha256"]

    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).train()
    state = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    bundle = edgekit.export(
        plain, target="onnx", precision="fp32", calibrate=photos, classes=["ant", "bee", "cat"], size=16, mean=(0.5, 0.4, 0.3),
        std=0.25, output=tmp_path / "plain",
    )  # fmt: skip
    assert plain.training, "the caller's network was put into another mode"
    assert all(torch.equal(plain.state_dict()[name], tensor) for name, tensor in state.items())
    images, logits = bundle.golden()
    normalized = (
        torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor((0.5, 0.4, 0.3)).view(3, 1, 1)
    ) / 0.25
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), plain.eval()(normalized), rtol=1e-4, atol=1e-5)
    for options, said in (
        ({"classes": ["ant", "bee"]}, "has 3 classes, but classes names 2"),
        ({"classes": "names"}, "cannot be read"),
        ({"classes": ["ant"]}, "not a list of at least two names"),
        ({"mean": None}, "its normalization is unknown"),
        ({"which": "student"}, "Sequential is not a run"),
        ({"weights": "x.pth"}, "not allowed with a network from Python"),
    ):
        given = {"calibrate": photos, "classes": ["ant", "bee", "cat"], "size": 16, "mean": 0.5, "std": 0.25, **options}
        with pytest.raises((ExportError, DataError), match=said):
            edgekit.export(plain, target="onnx", precision="fp32", output=tmp_path / "wrong", **given)
    with pytest.raises(ExportError, match="an encoder has no classes"):
        edgekit.export(student_run.encoder(), target="onnx", calibrate=photos, output=tmp_path / "wrong")
    with pytest.raises(ExportError, match="or the name of a model, not dict"):
        edgekit.export({}, calibrate=photos, output=tmp_path / "wrong")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="is a run, which has its own"):
        edgekit.export(student_run, size=16)
    with pytest.raises(ExportError, match="'pupil' is not a model of a run"):
        edgekit.export(student_run, "pupil")  # type: ignore[arg-type]
    assert not (tmp_path / "wrong").exists()


SCRIPT = """
import sys
import numpy as np
import torch
from torch import nn
import edgekit

print("from the top")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    def forward(self, x):
        return self.layers(x)

model = Net() if sys.argv[2] == "own" else Net().layers
bundle = edgekit.export(model, target=["onnx", "openvino"], precision=["fp32"], calibrate=sys.argv[1], classes=["a", "b", "c"],
                        size=16, mean=0.5, std=0.25, output=sys.argv[3], jobs=2)
print([variant.id for variant in bundle.manifest.variants])
"""


@pytest.mark.slow
@pytest.mark.parametrize("network", ["own", pytest.param("library", marks=pytest.mark.extra)])
def test_a_script_without_a_guard_runs_once_even_where_processes_work_for_it(
    network: str, photos: Path, tmp_path: Path
) -> None:
    """Spawned processes import the program's `__main__`, which would run the script again in each of them."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(photos), network, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "from the top\n['onnx-fp32', 'openvino-fp32']\n"
    assert ("made one after the other" in done.stderr) == (network == "own")


@pytest.mark.slow
def test_embed_and_report_write_what_the_commands_write(
    trained: edgekit.Run, photos: Path, tmp_path: Path, command_line: Command
) -> None:
    found = edgekit.embed(trained, photos, of="student", k=3, output=tmp_path / "a", neighbors=photos / "05.png")
    assert len(found.files) == 12
    assert found.features.shape == (12, trained.student().feature_dim)
    arguments = ("--of", "student", "--k", 3, "--output", tmp_path / "b", "--neighbors", photos / "05.png", "--json")
    code, out, err = command_line("embed", trained.path, photos, *arguments)
    assert code == 0, err
    [(image, near)] = found.nearest.items()
    assert image == str(photos / "05.png")
    assert found.files[near[0][0]] == "05.png"
    assert near[0][1] == pytest.approx(1)
    [said] = json.loads(out)["neighbors"].values()
    assert [row["file"] for row in said] == [found.files[i] for i, _ in near]
    for name in ("features.parquet", "skipped.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "b" / "map.html").is_file()
    page = edgekit.report(trained, tmp_path / "page.html")
    code, out, _ = command_line("report", trained.path, "--output", tmp_path / "other.html")
    assert code == 0
    assert page == tmp_path / "page.html"
    assert "page.html" not in page.read_text()
    assert out.strip() == str(tmp_path / "other.html")


def test_export_classifier_is_what_export_calls(student_run: edgekit.Run) -> None:
    """Every option of a run's export reaches `export_classifier`, under its own name."""
    import inspect

    from edgekit.export.inputs import ExportOptions

    taken = set(inspect.signature(edgekit.export).parameters) | {"timed"}
    other = {
        "options",
        "name",
        "provenance",
        "trained",
        "preprocessing",
        "calibration",
        "evaluation",
        "targets",
        "precisions",
        "task",  # a run's model classifies
        "alarm",  # of a detector
        "confidence",  # from `abstain` and `false_abstain`, and the run's own held-out images
    }
    named = {p for p in inspect.signature(export_classifier).parameters if p not in other}
    assert (named | set(ExportOptions.__dataclass_fields__)) <= taken
