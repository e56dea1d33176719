"""Runs, bundles, results and recipes of an older version (tests/fixtures/written_by_3c72a1c) are read, and nothing is trained again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import edgekit
from edgekit.bench.compare import compare
from edgekit.bench.doctor.proof import check
from edgekit.bundle import Bundle
from edgekit.files import sha256
from edgekit.report.ablation import write_ablation
from edgekit.result import Ablation, Evaluation, Latency, Profile, Result, Transfer
from edgekit.spelling import translated
from edgekit.stages import STAGES as ALL_STAGES
from edgekit.train.evaluate.scores import with_earlier_few_shot

OLD = Path(__file__).parent / "fixtures" / "written_by_3c72a1c"
RECIPES = sorted(path.name for path in (OLD / "recipes").glob("*.yaml"))
RESULTS = sorted(str(path.relative_to(OLD)) for path in OLD.rglob("*.json") if '"measurement"' in path.read_text())
STAGES = tuple(stage for stage in ALL_STAGES if stage != "anomaly")  # of a classifier
COPIED = ("data", "pretrain")
BUNDLES = ["run/export", "bundles/openvino.zip"]
Command = Callable[..., tuple[int, str, str]]
command_line = pytest.fixture(lambda edgekit: edgekit)  # the command, under a name that is not the package's


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of everything in a place of another name, which is the current folder."""
    shutil.copytree(OLD, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def leaves(content: Any, path: str = "") -> dict[str, Any]:
    """The values of a recipe by their keys' paths."""
    if not isinstance(content, dict):
        return {path: content}
    return {k: v for key, value in content.items() for k, v in leaves(value, f"{path}.{key}".strip(".")).items()}


def digests(*folders: str) -> dict[Path, str]:
    return {path: sha256(path) for top in folders for path in Path(top).rglob("*") if path.is_file()}


def trained(recipe: object, **options: Any) -> dict[str, str]:
    """What became of each stage."""
    outcomes: dict[str, str] = {}
    edgekit.train(recipe, on_stage=lambda report, draw: outcomes.update({report.stage: report.outcome}), **options)
    return outcomes


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_means_what_it_meant(name: str) -> None:
    written = leaves(translated(yaml.safe_load(Path("recipes", name).read_text())))
    recipe = edgekit.Recipe.read(f"recipes/{name}")
    recipe.write("again.yaml")
    today = leaves(yaml.safe_load(Path("again.yaml").read_text()))
    for path in written.keys() & today.keys():
        assert today[path] == written[path] or not isinstance(written[path], (int, float)), path
    assert len(written.keys() & today.keys()) >= 0.9 * len(written)  # the rest has another name today
    assert edgekit.Recipe.read("again.yaml") == recipe
    if "british" in name or "whole" in name:
        stages = (recipe.pretrain, recipe.finetune, recipe.distill, recipe.supervised)
        assert [stage.augmentation.gray for stage in stages] == [0.25, 0.125, 0.0625, 0.5]
        assert (recipe.data.labeled, recipe.distill.labeled_weight) == ("images", 0.25)
        assert len(recipe.pretrain.one_branch) == 2


def test_an_override_may_have_the_old_name() -> None:
    written = leaves(yaml.safe_load(Path("recipes/british.yaml").read_text()))
    overrides = [f"{path}={value}" for path, value in written.items()]
    assert edgekit.Recipe.read({}, overrides) == edgekit.Recipe.read("recipes/british.yaml")


@pytest.mark.parametrize("recipe", ["recipes/tiny.yaml", "run/recipe.yaml"])
def test_no_stage_of_a_complete_run_is_trained_again(recipe: str) -> None:
    before = digests(*(f"run/{stage}" for stage in STAGES))
    assert trained(recipe, run="run") == dict.fromkeys(STAGES, "skipped")
    assert digests(*(f"run/{stage}" for stage in STAGES)) == before
    # That version left out labels of the last batch and had other defaults: only what it would train today is copied.
    assert trained(recipe, run="other", reuse="run") == dict.fromkeys(STAGES, "done") | dict.fromkeys(COPIED, "copied")
    for stage in COPIED:
        assert edgekit.Run("other").require(stage).outputs == edgekit.Run("run").require(stage).outputs


def test_what_the_recipe_changes_is_trained_again() -> None:
    """The test above could not fail if nothing ever was."""
    outcomes = trained("run/recipe.yaml", run="other", reuse="run", overrides={"supervised.epochs": 3})
    assert outcomes == dict.fromkeys(STAGES, "done") | dict.fromkeys(COPIED, "copied")
    changed = trained("run/recipe.yaml", run="third", reuse="other", overrides={"supervised.epochs": 4})
    assert changed == dict.fromkeys(STAGES, "copied") | {"supervised": "done"}


def test_the_networks_of_a_run_compute_what_they_did() -> None:
    run = edgekit.Run("run")
    golden = Bundle.open("run/export").golden_outputs()
    student = run.student()
    assert student.classes == ["blue", "green", "red"]
    with torch.no_grad():
        images = student.normalize(torch.from_numpy(golden["images"]))
        np.testing.assert_allclose(student(images).numpy(), golden["logits"], rtol=1e-3, atol=1e-3)
        assert run.teacher()(images).shape == run.supervised()(images).shape == (len(images), 3)
        assert run.encoder()(images).shape == (len(images), 64)


@pytest.mark.parametrize("path", BUNDLES)
def test_every_variant_of_a_bundle_predicts_and_proves_itself(path: str) -> None:
    bundle = Bundle.open(path)
    variants = bundle.manifest.variants
    assert [variant.precision for variant in variants] == ["fp32", "int8"]
    images = {file: file.parent.name for file in sorted(Path("images").rglob("*.png"))}
    for variant in variants:
        with edgekit.load(path, variant.id) as model:
            right = [
                found.classes[0][0] == name
                for found, name in zip(model.predict(list(images)), images.values(), strict=True)
            ]
        assert sum(right) >= 0.9 * len(images), variant.id  # one in three by chance
    checks = check(bundle, list(variants))
    assert [(c.outcome, c.proof is not None and c.proof.agreement >= 0.9) for c in checks] == [("proved", True)] * 2


@pytest.mark.parametrize("path", RESULTS)
def test_a_result_is_read_and_written_as_it_is(path: str) -> None:
    result = Result.read(Path(path))
    assert isinstance(result.measurement, Latency | Profile | Evaluation | Transfer | Ablation)
    result.write(Path("again.json"))
    assert Result.read(Path("again.json")) == result
    assert len(repr(result)) < 300


def test_every_kind_of_result_is_among_the_files() -> None:
    kinds = {type(Result.read(Path(path)).measurement) for path in RESULTS}
    assert kinds == {Latency, Profile, Evaluation, Transfer, Ablation}
    assert len([path for path in RESULTS if isinstance(Result.read(Path(path)).measurement, Latency)]) == 8


@pytest.mark.parametrize(
    ("before", "after", "pairs"),
    [("run/bench", "results/again", 2), ("results/openvino", "results/openvino", 2), ("results/offline", "results/offline", 1),
     ("results/server", "results/server", 1), ("run/export", "run/export", 2), ("bundles/openvino.zip", "bundles/openvino.zip", 2),
     ("run/evaluate/evaluation.json", "run/evaluate/evaluation.json", 1)],
)  # fmt: skip
def test_older_measurements_are_compared(before: str, after: str, pairs: int) -> None:
    compared = compare(Path(before), Path(after))
    assert len(compared.pairs) == pairs
    for pair in compared.pairs:
        assert all(row.before is not None and row.after is not None for row in pair.rows)
        if before == after:
            assert {row.change for row in pair.rows} == {0.0}


def test_an_evaluation_measures_the_same_and_keeps_the_few_shot_scores() -> None:
    older = Result.read(Path("run/evaluate/evaluation.json")).measurement
    shutil.copy("run/evaluate/evaluation.json", "older.json")
    measured = edgekit.evaluate("run").measurement
    assert isinstance(older, Evaluation)
    assert isinstance(measured, Evaluation)
    plain = [score for score in older.scores if score.shots is None]
    found = {(score.model, score.metric): score for score in measured.scores if score.shots is None}
    assert list(found) == [(score.model, score.metric) for score in plain]
    for score in plain:  # another processor may decide one image otherwise
        assert abs(found[score.model, score.metric].value - score.value) < 1.5 / score.samples
    # With exactly the counts of then, as counted today, the encoder is the same, whatever words today's protocol has.
    counted = [
        found[score.model, score.metric].model_copy(
            update={"value": round(score.value * score.samples) / score.samples}
        )
        for score in plain
    ]
    kept = with_earlier_few_shot(measured.model_copy(update={"scores": counted}), Path("older.json"))
    assert [score for score in kept.scores if score.shots] == [score for score in older.scores if score.shots]


def test_a_report_is_drawn_of_what_the_run_holds(tmp_path: Path) -> None:
    page = edgekit.report("run").read_text()
    evaluation = Result.read(Path("run/evaluate/evaluation.json")).measurement
    assert isinstance(evaluation, Evaluation)
    text = re.sub(r"<[^>]*>|\s+", " ", page)
    for expected in ("onnx-int8", "onnx-fp32", "88.9", "1-shot"):
        assert expected in text, expected
    ablation = Result.read(Path("results/ablation.json"))
    write_ablation(ablation, tmp_path / "ablation.html")
    assert "pretrain.temperature" in (tmp_path / "ablation.html").read_text()


def test_a_run_is_exported_beside_and_over_its_older_bundle() -> None:
    older = {variant.id: variant for variant in Bundle.open("run/export").manifest.variants}
    fresh = edgekit.export("run", output="fresh", precision="fp32")
    assert {variant.id: variant.status for variant in fresh.manifest.variants} == {
        "onnx-fp32": "verified",
        "openvino-fp32": "verified",
    }
    accuracy, before = fresh.manifest.accuracy, Bundle.open("run/export").manifest.accuracy
    assert (accuracy.value, accuracy.samples) == (before.value, before.samples)
    assert fresh.manifest.classes == ["blue", "green", "red"]
    over = edgekit.export("run", target="openvino", precision="fp32")
    found = {variant.id: variant.status for variant in over.manifest.variants}
    assert found == dict.fromkeys([*older, "openvino-fp32"], "verified")


def test_transfer_and_embed_continue_with_a_run(command_line: Command) -> None:
    before = digests("run/transfer/" + next(path.name for path in Path("run/transfer").iterdir() if path.is_dir()))
    code, _, err = command_line("transfer", "run", "images")
    assert code == 0, err
    assert digests(*{str(path.parent) for path in before}) == before
    assert isinstance(Result.read(Path("run/transfer/transfer.json")).measurement, Transfer)
    found = edgekit.embed("run", "images", of="student", output="embedded")
    assert found.features.shape == (36, 64)
    assert repr(found) == "<Embedding of images by the student: 36 images, 64 features each>"
