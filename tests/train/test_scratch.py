"""The network from scratch at its best, and several draws of the labels: chosen on the probe set, resumed, and compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edgekit import recipe as recipes
from edgekit.data.splits import load_splits
from edgekit.errors import RecipeError
from edgekit.files import digest_of, sha256
from edgekit.intervals import paired
from edgekit.models.classifier import Classifier
from edgekit.recipe import Architecture, Supervised
from edgekit.run import Run
from edgekit.train.assess import evaluate
from edgekit.train.draws import accuracies, check_draws, train_draws
from edgekit.train.loop.failures import TrainingInterrupted
from edgekit.train.stages import pipeline as stages
from edgekit.train.stages import scratch
from edgekit.train.stages.pipeline import Report, train
from tests.helpers.recipe_changes import TINY, changed

SEARCHING = changed(TINY, supervised__search=True, supervised__augmentation={"crop_scale": [0.3, 1.0], "flip": 0.0})
NAMES = ["recipe", "mild", "none"]


def searched(folder: Path, content: dict[str, Any] = SEARCHING) -> dict[str, Any]:
    train(recipes.parse(content), Run(folder))
    return Run(folder).require("supervised").metrics


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "searched"
    searched(folder)
    return folder


def test_crops_are_tried_where_they_are_others() -> None:
    def names(**augmentation: Any) -> list[str]:
        return [c.name for c in scratch.crops(Supervised.model_validate({"augmentation": augmentation}))]

    assert names() == NAMES
    assert names(crop=0.0) == ["recipe", "mild"]
    assert names(crop_scale=[0.5, 1.0]) == ["recipe", "none"]


def test_the_best_on_the_probe_set_is_kept_and_all_are_written_down(trained: Path) -> None:
    record = Run(trained).require("supervised")
    tried = record.metrics["search"]
    best = max(tried, key=lambda result: result["probe_top1"])  # of equals the first
    assert [result["name"] for result in tried[:3]] == NAMES
    first = max(tried[:3], key=lambda result: result["probe_top1"])["name"]
    # 3 + 3 + 3 + 9 epochs of 100 labels are less than 3 epochs of the pool.
    assert (tried[3]["name"], tried[3]["epochs"]) == (f"{first}-longer", 9)
    assert record.metrics["chosen"] == best["name"]
    assert len((trained / "supervised" / "history.csv").read_text().splitlines()) == 1 + best["epochs"]
    left = {p.name for p in (trained / "supervised").iterdir()}
    assert left == {"stage.json", "model.json", "model.safetensors", "history.csv", "tensorboard"}


@pytest.mark.parametrize("allowed", [0, 100, 199, 200, 300, 599, 600, 1e9])
@pytest.mark.parametrize("crop", [0.0, 1.0])
def test_the_epochs_of_a_search_are_known_before(crop: float, allowed: int, tmp_path: Path) -> None:
    config = Supervised.model_validate({"epochs": 5, "augmentation": {"crop": crop}})
    seen: list[int] = []

    def train_one(config: Supervised, folder: Path) -> tuple[Classifier, dict[str, Any], float]:
        assert config.epochs != "auto"
        seen.append(config.epochs)
        network = Classifier.build(Architecture(name="resnet10", width=0.125), 16, ["a", "b"], [], "student")
        return network, {}, 0.5

    scratch.search(config, 5, 20, allowed, train_one, tmp_path)
    assert sum(seen) == scratch.tried_epochs(config, 5, 20, allowed)


def test_the_recipes_own_settings_train_the_same_bits_with_and_without_a_search(tmp_path: Path) -> None:
    allowed = changed(
        SEARCHING, data__labels=20, pretrain__epochs=1, pretrain__optimizer__warmup_epochs=0, supervised__epochs=5
    )
    metrics = searched(tmp_path / "a", allowed)  # 1,000 images for one candidate, and 1,259 allowed for all
    assert [result["name"] for result in metrics["search"]] == ["recipe"]
    searched(tmp_path / "b", changed(allowed, supervised__search=False))
    weights = [sha256(tmp_path / run / "supervised" / "model.safetensors") for run in "ab"]
    assert weights[0] == weights[1]


def test_without_a_probe_set_nothing_is_chosen(trained: Path, tmp_path: Path) -> None:
    metrics = searched(tmp_path / "run", changed(SEARCHING, data__probe=0.0))
    assert "search" not in metrics


@pytest.mark.parametrize("where", ["measuring", "declaring"])
def test_an_interrupted_search_goes_on_to_the_same_bits(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Ended at the second candidate, before its accuracy is known, or between its files and the one that declares it complete."""
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.rmtree(folder / "supervised")
    calls: list[str] = []

    def ended(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if where == "measuring" or str(arguments[0]).endswith("result.json"):
                calls.append("")
                if len(calls) == 2:
                    raise TrainingInterrupted
            return original(*arguments)

        return call

    with monkeypatch.context() as patched:
        if where == "measuring":
            patched.setattr(stages, "quality_on", ended(stages.quality_on))
        else:
            patched.setattr(scratch, "write_json", ended(scratch.write_json))
        with pytest.raises(TrainingInterrupted):
            searched(folder)
    assert [p.name for p in (folder / "supervised" / "candidates").iterdir() if (p / "result.json").exists()] == [
        "recipe"
    ]
    begun: list[str] = []
    real = scratch._train

    def noted(candidate: scratch.Candidate, *rest: Any) -> dict[str, Any]:
        begun.append(candidate.name)
        return real(candidate, *rest)

    monkeypatch.setattr(scratch, "_train", noted)
    metrics = searched(folder)
    assert begun[:2] == ["mild", "none"]
    assert metrics["search"] == Run(trained).require("supervised").metrics["search"]
    assert sha256(folder / "supervised" / "model.safetensors") == sha256(trained / "supervised" / "model.safetensors")


def test_a_record_that_is_older_than_the_search_stays_complete(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    path = folder / "supervised" / "stage.json"
    content = json.loads(path.read_text())
    assert "search" not in content["inputs"]["config"]
    content["metrics"] = {
        "loss": 1.0,
        "train_top1": 0.5,
        "test_top1": 0.5,
        "measured_on": content["metrics"]["measured_on"],
    }
    path.write_text(json.dumps(content))
    assert content["digest"] == digest_of(content["inputs"])
    reports: list[Report] = []
    train(recipes.parse(SEARCHING), Run(folder), on_stage=reports.append)
    assert {report.outcome for report in reports} == {"skipped"}
    evaluation = evaluate(Run(folder), load_splits(recipes.parse(SEARCHING).data))
    protocol = next(s.protocol for s in evaluation.scores if s.model == "supervised")
    assert "settings" not in protocol


@pytest.fixture(scope="module")
def drawn(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "drawn"))
    content = changed(SEARCHING, supervised__search=False)
    train(recipes.parse(content), Run(folder))
    outcomes: list[tuple[int, str, str]] = []
    train_draws(recipes.parse(content), Run(folder), 3, on_stage=lambda d, r: outcomes.append((d, r.stage, r.outcome)))
    assert outcomes == [
        (d, stage, "copied" if stage == "pretrain" else "done")
        for d in (1, 2)
        for stage in ("data", "pretrain", "finetune", "distill", "supervised")
    ]
    return folder


def test_draws_have_other_labels_and_the_same_test_images_and_encoder(drawn: Path) -> None:
    runs = [drawn, drawn / "draws" / "1", drawn / "draws" / "2"]
    assert len({(run / "data" / "labels.csv").read_text() for run in runs}) == 3
    assert len({(run / "data" / "test.csv").read_text() for run in runs}) == 1
    assert len({sha256(run / "pretrain" / "model.safetensors") for run in runs}) == 1


def test_complete_draws_are_skipped(drawn: Path) -> None:
    outcomes: set[str] = set()
    train_draws(Run(drawn).recipe, Run(drawn), 3, on_stage=lambda draw, report: outcomes.add(report.outcome))
    assert outcomes == {"skipped"}


def test_an_evaluation_is_over_images_and_draws(drawn: Path) -> None:
    run = Run(drawn)
    evaluation = evaluate(run, load_splits(run.recipe.data))
    assert [(draw.label_seed, draw.run) for draw in evaluation.draws] == [(0, "."), (1, "draws/1"), (2, "draws/2")]
    for measured, recorded in zip(evaluation.draws, accuracies(run, 3), strict=True):
        assert measured.values == pytest.approx(recorded.values)
    found = evaluation.difference("student", "supervised")
    assert found is not None
    each = [draw.values["student"] - draw.values["supervised"] for draw in evaluation.draws]
    assert found.value == pytest.approx(np.mean(each))
    assert found.draws == 3
    assert found.p_value is None
    assert found.interval[0] <= found.value <= found.interval[1]


def test_draws_of_another_recipe_do_not_count(drawn: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(drawn, tmp_path / "run"))
    other = changed(SEARCHING, supervised__search=False, finetune__epochs=4)
    train(recipes.parse(other), Run(folder))
    evaluation = evaluate(Run(folder), load_splits(Run(folder).recipe.data))
    assert evaluation.draws == []
    assert all(d.draws == 1 and d.p_value is not None for d in evaluation.differences)


def test_the_interval_of_one_draw_is_that_of_its_answers(trained: Path) -> None:
    from edgekit.answers import read_answers

    run = Run(trained)
    evaluation = evaluate(run, load_splits(run.recipe.data))
    answers = read_answers(trained / "evaluate" / "answers.npz", 10)
    found = evaluation.difference("student", "supervised")
    assert found is not None
    each = answers.right("student").astype(np.int8) - answers.right("supervised").astype(np.int8)
    assert found.interval == paired(each[None], run.recipe.seed)
    assert found.value == pytest.approx(each.mean())
    assert evaluation.value("student", "top1") == pytest.approx(answers.top1("student"))
    assert "best of 4 settings on the probe set" in next(
        s.protocol for s in evaluation.scores if s.model == "supervised"
    )
    assert np.trace(answers.confusion("student", 10)) == answers.right("student").sum()
    wrong = ~answers.right("student")
    assert len(evaluation.worst) == min(18, wrong.sum()) == len(answers.thumbnails)
    assert evaluation.worst[0].probability == pytest.approx(answers.probability["student"][wrong].max())
    assert len(answers.maps) == min(6, wrong.sum())
    assert np.ptp(answers.maps) > 0


@pytest.mark.parametrize("labels", [1.0, "labels.csv"])
def test_draws_of_what_cannot_be_drawn_are_refused(labels: object) -> None:
    with pytest.raises(RecipeError, match=r"--draws 3: data.labels"):
        check_draws(recipes.parse(changed(TINY, data__labels=labels)), 3)


@pytest.mark.parametrize("labels", [1, 10, 0.5, {"per_class": 10, "at_most": True}])
def test_draws_of_what_can_be_drawn_are_accepted(labels: object) -> None:
    check_draws(recipes.parse(changed(TINY, data__labels=labels)), 3)


def test_draws_that_would_all_take_every_label_are_refused_before_anything_is_trained(
    edgekit: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed(TINY, data__labels={"per_class": 1000, "at_most": True})))
    code, out, err = edgekit("train", path, "--run", tmp_path / "run", "--draws", "2")
    assert code == 2
    assert "--draws 2: data.labels takes every label there is outside the test and probe sets (1259)" in err
    assert out == ""
    assert not [*(tmp_path / "run").glob("*/stage.json"), *(tmp_path / "run").glob("recipe.yaml")]


def test_the_command_trains_draws_and_ends_with_advice(
    edgekit: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed(TINY, data__labels={"per_class": 10, "at_most": True})))
    code, out, err = edgekit("train", path, "--run", tmp_path / "run", "--draws", "2")
    assert code == 0, err
    assert "draw 1: pretrain   copied" in out
    assert "student: mean" in out
    assert "Advice:" in out
    assert max(map(len, out.partition("Advice:")[2].partition("complete. Next")[0].splitlines()[:-1])) <= 80
    code, out, _ = edgekit("train", path, "--run", tmp_path / "run", "--draws", "2")
    assert "Advice:" not in out  # nothing was trained: nothing is measured again
    code, _, err = edgekit("train", path, "--run", tmp_path / "run", "--draws", "2", "--until", "pretrain")
    assert (code, "--draws cannot be combined with --until" in err) == (2, True)
