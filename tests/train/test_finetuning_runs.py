"""The fine-tuning stage: it leaves the linear probe where fine-tuning spoils it, and older runs stay complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import recipe as recipes
from edgekit.data.splits import load_splits
from edgekit.errors import RunError
from edgekit.files import digest_of, write_json
from edgekit.models.store import load_classifier, load_pretrained
from edgekit.run import Run
from edgekit.train.evaluate import apply, device_of, labels_of, linear_probe, share
from edgekit.train.records.inputs import require_current, stage_inputs
from edgekit.train.stages.pipeline import Report, train
from tests.helpers.recipe_changes import TINY, changed

# Steps so large that no encoder survives them; Adam's are bounded, so that the loss stays a number.
RUINOUS = {
    "finetune__optimizer": {"name": "adamw", "lr": 0.5, "scale_lr": False, "warmup_epochs": 0},
    "finetune__ema": 0.0,
    "finetune__fallback": True,
}


def recipe(**changes: object) -> recipes.Recipe:
    return recipes.parse(changed(TINY, **changes))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("runs") / "pretrained")
    train(recipe(), run, until="pretrain")
    return run


def probe_accuracy(run: Run) -> float:
    """Test accuracy of the linear probe on the frozen encoder, with the run's label budget."""
    splits, data = load_splits(run.recipe.data), run.recipe.data
    encoder = load_pretrained(run.stage_path("pretrain")).encoder
    known, queries = (
        apply(encoder, some.images, data.mean, data.std, device_of(run.recipe))
        for some in (splits.labeled, splits.test)
    )
    return share(linear_probe(known, labels_of(splits.labeled), queries), labels_of(splits.test))


@pytest.mark.parametrize("probe", [0.1, 0.0], ids=["on the probe set", "without a probe set"])
def test_a_fine_tuning_that_spoils_the_encoder_leaves_the_linear_probe_and_says_so(
    probe: float, pretrained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    train(recipe(**RUINOUS, data__probe=probe), run, until="finetune", reuse=[pretrained])
    metrics = run.require("finetune").metrics
    choice = metrics["choice"]
    assert choice["left"] == "frozen"
    assert choice["on"] == ("probe set" if probe else "pool")
    assert choice["test"]["finetuned"] < choice["test"]["frozen"]
    assert "finetune: warning: stored the linear probe" in capsys.readouterr().err
    close = 1.5 / len(
        load_splits(run.recipe.data).test
    )  # the head is float32: an image on the boundary may fall either way
    assert metrics["test_top1"] == pytest.approx(probe_accuracy(run), abs=close)
    stored, encoder = load_classifier(run.stage_path("finetune")), load_pretrained(run.stage_path("pretrain")).encoder
    for name, tensor in encoder.state_dict().items():
        np.testing.assert_array_equal(stored.encoder.state_dict()[name], tensor, err_msg=name)


def test_without_the_fallback_the_fine_tuned_network_is_left_whatever_it_is(pretrained: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(recipe(**{**RUINOUS, "finetune__fallback": False}), run, until="finetune", reuse=[pretrained])
    metrics = run.require("finetune").metrics
    assert metrics["choice"]["left"] == "finetuned"
    assert metrics["test_top1"] == metrics["choice"]["test"]["finetuned"] < metrics["choice"]["test"]["frozen"]


def as_older(run: Run, stage: str, config: dict[str, Any]) -> None:
    """Rewrite a stage's record as an edgekit without linear probe, consistency and mild crops wrote it."""
    path = run.stage_path(stage) / "stage.json"
    record = json.loads(path.read_text())
    inputs = record["inputs"]
    for key in ("linear_first", "layer_decay", "freeze_batchnorm", "ema", "consistency", "fallback"):
        if stage == "finetune":
            inputs["config"].pop(key)
    if stage == "distill":
        for key in ("mixup", "start"):
            inputs["config"].pop(key)
    inputs.pop("defaults")
    if stage == "finetune":
        inputs.pop("probe")
        inputs.pop("pool")
    inputs["config"] |= config
    record["digest"] = digest_of(inputs)
    write_json(path, record)


OLD_CROPS = {"crop_scale": [0.08, 1.0], "jitter": 0.0, "gray": 0.0, "blur": 0.0}


def test_runs_of_an_older_edgekit_stay_complete_and_changed_ones_do_not(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    content = changed(TINY, supervised__enabled=False)
    content["finetune"] = {"epochs": 1, "batch_size": 50, "optimizer": {"name": "sgd", "lr": 0.01, "warmup_epochs": 0}}
    content["distill"]["epochs"] = 2
    left_out = recipes.parse(content)
    train(left_out, run)
    augmentation = recipes.parse(changed(content, finetune__augmentation=OLD_CROPS)).finetune.augmentation.model_dump(
        mode="json"
    )
    as_older(run, "finetune", {"keep_projection_layers": 1, "augmentation": augmentation})
    as_older(run, "distill", {"augmentation": augmentation})

    def outcomes(one: recipes.Recipe) -> dict[str, str]:
        splits, found = load_splits(one.data), {}
        for stage in ("finetune", "distill"):
            try:
                require_current([stage], one, splits, run)
                found[stage] = "current"
            except RunError:
                found[stage] = "changed"
        return found

    as_written = changed(
        content, finetune__keep_projection_layers=1, finetune__augmentation=OLD_CROPS, distill__augmentation=OLD_CROPS
    )
    assert outcomes(left_out) == {"finetune": "current", "distill": "current"}
    assert outcomes(recipes.parse(as_written)) == {"finetune": "current", "distill": "current"}
    assert outcomes(recipes.parse(changed(content, finetune__ema=0.5))) == {"finetune": "changed", "distill": "current"}
    reports: list[Report] = []
    train(left_out, run, on_stage=reports.append)
    assert {report.outcome for report in reports} == {"skipped"}
    reports.clear()
    train(left_out, Run(tmp_path / "new"), reuse=[run], until="finetune", on_stage=reports.append)
    assert [report.outcome for report in reports] == ["copied", "copied", "done"], (
        "what was trained otherwise is not copied"
    )


def test_a_distillation_without_mixed_images_stays_complete_in_its_run(tmp_path: Path) -> None:
    """Where the record says that it has the defaults before the last ones."""
    run = Run(tmp_path / "run")
    content = changed(TINY, supervised__enabled=False, finetune__epochs=1, distill__epochs=2)
    train(recipes.parse(content), run)
    path = run.stage_path("distill") / "stage.json"
    record = json.loads(path.read_text())
    for key in ("mixup", "start"):
        record["inputs"]["config"].pop(key)
    record["inputs"]["defaults"] = 1
    record["digest"] = digest_of(record["inputs"])
    write_json(path, record)
    reports: list[Report] = []
    train(recipes.parse(content), run, on_stage=reports.append)
    assert {report.outcome for report in reports} == {"skipped"}
    for key, value in {"mixup": 0.25, "start": "encoder"}.items():
        one = recipes.parse(changed(content, **{f"distill__{key}": value}))
        splits = load_splits(one.data)
        with pytest.raises(RunError, match="the stage distill was made from another recipe"):
            require_current(["distill"], one, splits, run)


def test_a_default_written_out_that_was_another_one_is_a_change_for_new_runs(tmp_path: Path, pretrained: Run) -> None:
    run = Run(tmp_path / "run")
    train(recipe(), run, until="finetune", reuse=[pretrained])
    earlier = recipe(finetune__augmentation=OLD_CROPS)
    splits = load_splits(earlier.data)
    assert stage_inputs("finetune", earlier, splits, run) != run.require("finetune").inputs
    reports: list[Report] = []
    train(earlier, run, until="finetune", on_stage=reports.append)
    assert {report.stage: report.outcome for report in reports}["finetune"] == "done"
