"""What a recipe for a machine and a time is made of: the arithmetic on measured steps, and that real ones are measured."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit import recipe as recipes
from edgekit.data.layout import Layout
from edgekit.data.splits import Splits
from edgekit.data.template import recipe_text
from edgekit.errors import EdgekitError
from edgekit.recipe import LabelCount, Recipe, epochs_of, settled
from edgekit.run import Run
from edgekit.sizes import ImageSize
from edgekit.train import planning
from edgekit.train.estimate import StageTime, expected, measure
from edgekit.train.loop.timing import TimedTraining, timed_training
from edgekit.train.planning import candidate_networks, label_count, plan, stand_in, wanted_epochs
from edgekit.train.stages.scratch import tried_epochs
from edgekit.train.time_division import MOST
from tests.helpers.recipe_changes import TINY, changed

LAYOUT = Layout(
    name="set", labeled="set/train", test="set/test", pool=None, classes=["a", "b"], labeled_images=6000,
    smallest_class=3000, test_images=1000, pool_images=0, side=32,
)  # fmt: skip


def training(stage: str, steps: int, epochs: int, step: float, epoch: float = 0.0) -> TimedTraining:
    """One whose steps took so many seconds, the first ten times as long."""
    ends = [0.0, *(step * (i + 1) for i in range(4)), step * 5 + epoch]
    return TimedTraining(stage, steps, epochs, 256, 6, ends=[end + 10 * step for end in ends])


def test_the_time_of_a_training_is_that_of_its_steps_and_epochs() -> None:
    found = training("pretrain", 2000, 100, 0.5, 0.25)
    assert found.step_seconds == pytest.approx(0.5)
    assert found.epoch_seconds == pytest.approx(0.25)
    assert found.seconds() == pytest.approx(2000 * 0.5 + 100 * 0.25)
    assert found.seconds(20, 1) == pytest.approx(20 * 0.5 + 0.25)
    found.ends[2] += 5  # a single disturbed step changes nothing
    found.ends[3:] = [end + 5 for end in found.ends[3:]]
    assert found.step_seconds == pytest.approx(0.5)
    assert TimedTraining("pretrain", 5, 1, 256, 6).seconds() == 0.0
    assert TimedTraining("pretrain", 2, 1, 256, 2, 0.0, [1.0, 1.5]).step_seconds == pytest.approx(0.5)


def test_what_is_left_of_a_stage_counts_the_steps_that_a_checkpoint_has() -> None:
    features = replace(training("pretrain", 40, 1, 2.0), prepares=True)
    stage = StageTime([features, training("pretrain", 100, 10, 0.5)], other=3.0)
    assert stage.seconds == pytest.approx(3 + 80 + 50)
    assert StageTime([features], other=3.0).left(7) == pytest.approx(3 + 80)
    assert replace(stage, trainings=stage.trainings[1:]).left(25) == pytest.approx(3 + 0.75 * 50)
    assert stage.left(25) == pytest.approx(3 + 80 + 0.75 * 50), "no checkpoint counts the steps before the training"
    assert stage.left(1000) == pytest.approx(3 + 80)


def test_quick_steps_are_measured_for_longer_and_slow_ones_of_a_busy_machine_count() -> None:
    found = TimedTraining("pretrain", 1000, 10, 256, 6, 3.0)
    assert found.most == 60
    at = [0.0]
    for step in range(2, 25):
        at.append(at[-1] + (0.9 if step % 6 == 0 else 0.4 if step % 2 else 0.2))
    found.ends = at
    within = [0.4 if step % 2 else 0.2 for step in range(7, 25) if step % 6]
    assert found.step_seconds == pytest.approx(sum(within) / len(within))
    assert found.epoch_seconds == pytest.approx(0.9 - found.step_seconds)


def test_a_measurement_ends_with_a_window_when_there_was_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("edgekit.train.loop.timing.time.perf_counter", lambda: float(next(clock)))
    long, short = TimedTraining("x", 99, 9, 8, 6, 7.0), TimedTraining("x", 99, 9, 8, 6)
    assert [long.tick() for _ in range(12)] == [False] * 11 + [True]
    assert [short.tick() for _ in range(6)] == [False] * 5 + [True]


def test_nothing_is_timed_outside_of_a_measurement() -> None:
    assert timed_training("pretrain", 10, 1, 256) is None


def pretend(monkeypatch: pytest.MonkeyPatch, second: float) -> list[str]:
    """A machine on which a step of the narrowest network takes so many seconds; gives the list of what is measured."""
    measured: list[str] = []

    def measure(recipe: Recipe, splits: Splits, until: str = "supervised", limit: int | None = None) -> Any:
        encoder = recipe.pretrain.encoder
        factor = encoder.width / 0.25 * (0.4 if encoder.stem == "strided" else 1.0)
        measured.append(f"{encoder.width:g} {encoder.stem} {until}")
        times = {"data": StageTime()}
        for stage, share in (("pretrain", 1.0), ("finetune", 0.3), ("distill", 0.5), ("supervised", 0.2)):
            config = getattr(recipe, stage)
            images = len(splits.labeled if stage in {"finetune", "supervised"} else splits.pool)
            each = max(1, images // config.batch_size)
            step = second * factor * share
            times[stage] = StageTime([training(stage, config.epochs * each, config.epochs, step)], 1.0)
        return times, 3.0

    monkeypatch.setattr(planning, "measure", measure)
    monkeypatch.setattr(planning, "load_of_others", lambda least: None)
    monkeypatch.setattr(planning._Planner, "_decoding", lambda self: 2.0)
    monkeypatch.setattr(planning._Planner, "_mirrored", lambda self: None)
    return measured


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(second=st.floats(0.001, 1.0), minutes=st.integers(5, 240), labels=st.sampled_from(["10", "0.1", "1.0"]))
def test_the_plan_fills_the_time_and_never_exceeds_it(
    second: float, minutes: int, labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, second)
    chosen, seconds = plan(LAYOUT, labels, 60.0 * minutes)
    assert seconds <= 60 * minutes
    full = chosen.pretrain_epochs == MOST["pretrain"]
    epoch = 24 * second * 4  # of the widest network
    assert full or seconds >= 60 * minutes - 2 * epoch
    assert chosen.distill_epochs <= MOST["distill"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(second=st.floats(0.001, 1.0), minutes=st.integers(5, 240), labels=st.sampled_from(["1", "10", "0.1", "1.0"]))
def test_the_predicted_time_is_that_of_what_the_recipe_trains(
    second: float, minutes: int, labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of the baseline, which tries more settings where they see fewer images."""
    pretend(monkeypatch, second)
    chosen, predicted = plan(LAYOUT, labels, 60.0 * minutes)
    written = recipes.parse(recipes.read_yaml(recipe_text(LAYOUT, labels=labels, plan=chosen)))
    splits = planning.stand_in(written, LAYOUT)
    recipe = settled(written, len(splits.pool), len(splits.labeled))
    times, fixed = planning.measure(recipe, splits)
    seconds = fixed + 2.0 + sum(stage.seconds for stage in times.values())
    step = times["supervised"].trainings[0].step_seconds
    config, images = recipe.supervised, len(splits.labeled)
    each = max(1, images // config.batch_size)
    tried = tried_epochs(config, epochs_of(config), images, epochs_of(recipe.pretrain) * len(splits.pool))
    seconds += (tried - epochs_of(config)) * each * step
    # A stage ends with whole epochs, and the last batch of an epoch may be a small one.
    assert seconds == pytest.approx(predicted, rel=0.03)


def test_a_slow_machine_takes_a_narrow_network_and_a_fast_one_a_wide_one(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    for second in (1.0, 0.1, 0.02, 0.001):
        measured = pretend(monkeypatch, second)
        chosen, _ = plan(LAYOUT, "10", 1200.0)
        widths.append((chosen.encoder.stem != "strided", chosen.encoder.width))
        assert chosen.student.width == max(0.25, chosen.encoder.width / 2)
        if chosen.encoder.width < 1.0 and widths[-1] != (False, 0.25):
            assert chosen.pretrain_epochs >= wanted_epochs(6000) * 0.9
        assert len(measured) <= len(candidate_networks(32)) + 3
    assert widths == sorted(widths)
    assert widths[0] == (False, 0.25)
    assert widths[-1] == (True, 1.0)


def test_few_labels_keep_auto_and_many_get_the_steps_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0.05)
    few, _ = plan(LAYOUT, "10", 1200.0)
    assert (few.finetune_steps, few.supervised_steps) == (None, None)
    pretend(monkeypatch, 0.4)
    many, _ = plan(LAYOUT, "1.0", 150.0)
    assert many.finetune_steps is not None
    assert 0 < many.finetune_steps < 300 * 24


def test_only_the_start_up_that_is_given_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process did before is no start-up of the training."""
    pretend(monkeypatch, 0.1)
    expected, _ = plan(LAYOUT, "10", 600.0)
    monkeypatch.setattr("time.process_time", lambda: 1e6)
    later, _ = plan(LAYOUT, "10", 1200.0, start_up=600.0)
    assert (later.encoder, later.pretrain_epochs, later.distill_epochs) == (
        expected.encoder, expected.pretrain_epochs, expected.distill_epochs,
    )  # fmt: skip


def test_too_short_a_time_says_how_long_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 5.0)
    with pytest.raises(EdgekitError, match=r"--time 1:00 is too short on this machine: .*give at least \d+m"):
        plan(LAYOUT, "10", 60.0)


@pytest.mark.parametrize(
    ("labels", "count"), [(10, 20), (0.1, 600), (1.0, 5400), (10**6, 5400), (LabelCount(per_class=3, at_most=True), 6)]
)
def test_budgets_are_counted(labels: Any, count: int) -> None:
    assert label_count(labels, LAYOUT) == count


@pytest.mark.parametrize("size", [32, 64, 96, 128, 224])
def test_the_choices_grow(size: int) -> None:
    networks = candidate_networks(size)
    assert [r.encoder.width for r in networks] == sorted(r.encoder.width for r in networks)
    assert networks[-1].image_size == size
    assert all(r.image_size.pixels <= size**2 for r in networks)


@pytest.mark.parametrize("size", [32, 64, 96, 128, 224])
def test_the_choices_of_another_shape_cost_as_much(size: int) -> None:
    squares, frames = candidate_networks(size), candidate_networks(size, 4 / 3)
    assert [n.encoder for n in squares] == [n.encoder for n in frames]
    for square, frame in zip(squares, frames, strict=True):
        assert frame.image_size.aspect == pytest.approx(4 / 3, rel=0.12)
        assert frame.image_size.pixels == pytest.approx(square.image_size.pixels, rel=0.25)


def test_stand_ins_have_the_size_that_is_trained() -> None:
    """Measured steps see as many pixels as those of the training."""
    layout = replace(LAYOUT, side=240, aspect=4 / 3)
    recipe = recipes.parse(recipes.read_yaml(recipe_text(layout)))
    splits = stand_in(recipe, layout)
    assert splits.test.size == recipe.data.image_size == ImageSize(192, 256)
    assert splits.pool.size == ImageSize(219, 292)  # 8/7 of it, from which crops are taken


def test_real_steps_of_every_stage_are_measured_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    from edgekit.data.splits import load_splits

    recipe = recipes.parse(changed(TINY, pretrain__epochs=50, finetune__epochs="auto"))
    splits = load_splits(recipe.data)
    times, took = measure(recipe, splits, limit=3)
    assert list(times) == ["data", "pretrain", "finetune", "distill", "supervised"]
    whole = settled(recipe, len(splits.pool), len(splits.labeled))
    for stage in ("pretrain", "finetune", "distill", "supervised"):
        (only,) = times[stage].trainings
        assert len(only.ends) == 3  # real steps, and no more of them
        assert only.epochs == getattr(whole, stage).epochs
        assert only.step_seconds > 0
        assert times[stage].seconds > only.seconds()
    assert took > sum(t.trainings[0].ends[-1] - t.trainings[0].ends[0] for t in times.values() if t.trainings)
    run = Run(tmp_path / "run")
    seconds = expected(recipe, splits, run)
    assert seconds is not None
    assert set(seconds) == {"pretrain", "finetune", "distill", "supervised"}
    assert not run.path.exists()


def test_a_training_that_is_over_at_once_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    from edgekit.data.splits import load_splits

    recipe = recipes.parse(TINY)
    assert expected(recipe, load_splits(recipe.data), Run(tmp_path / "run")) is None


@pytest.mark.parametrize(
    ("bf16", "fp32", "taken"), [(0.5, 1.0, "auto"), (1.0, 1.0, "auto"), (1.1, 1.0, "auto"), (2.0, 1.0, "fp32")]
)
def test_float32_is_taken_where_native_bfloat16_is_clearly_slower(
    bf16: float, fp32: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, 0.1)
    real = planning.measure

    def measure(recipe: Recipe, splits: Splits, *arguments: Any) -> Any:
        times, took = real(recipe, splits, *arguments)
        if recipe.hardware.threads == 1:
            step = {"bf16": bf16, "fp32": fp32}[recipe.hardware.precision]
            times["pretrain"].trainings[0].processor[:] = [step * i for i in range(4)]
        return times, took

    monkeypatch.setattr(planning, "measure", measure)
    monkeypatch.setattr(planning, "has_native_bf16", lambda: True)
    threads = planning.torch.get_num_threads()
    chosen, _ = plan(LAYOUT, "10", 1200.0)
    assert chosen.precision == taken
    assert f"{bf16:.3g} s of one core in bf16 and {fp32:.3g} s in fp32" in " ".join(chosen.measured)
    assert planning.torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("load", "several", "taken"), [(None, 5.0, None), (9.0, 5.0, 1), (9.0, 1.1, None), (9.0, 0.6, None)]
)
def test_one_thread_is_taken_where_it_is_faster_beside_other_programs(
    load: float | None, several: float, taken: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of one thread takes 0.1 s, one of several threads `several` times as long."""
    pretend(monkeypatch, 0.1)
    pretended = planning.measure

    def measure(recipe: Recipe, splits: Splits, *arguments: Any) -> Any:
        times, took = pretended(recipe, splits, *arguments)
        if recipe.hardware.threads is None:
            for timed in (one for stage in times.values() for one in stage.trainings):
                timed.ends[:] = [end * several for end in timed.ends]
        return times, took

    monkeypatch.setattr(planning, "measure", measure)
    monkeypatch.setattr(planning, "load_of_others", lambda least: load)
    monkeypatch.setattr(planning.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(planning.torch, "set_num_threads", lambda threads: None)
    chosen, _ = plan(LAYOUT, "10", 1200.0)
    assert chosen.threads == taken
    text = recipe_text(LAYOUT, labels="10", plan=chosen)
    assert recipes.parse(recipes.read_yaml(text)).hardware.threads == taken


@pytest.mark.parametrize("seconds", [60, 90, 120, 240])
def test_fewer_steps_of_distillation_than_the_advice_asks_for_are_said(
    monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    pretend(monkeypatch, 0.2)
    said: list[str] = []
    chosen, _ = plan(LAYOUT, "10", float(seconds), said.append)
    assert isinstance(chosen.distill_epochs, int)
    steps = chosen.distill_epochs * 21  # of 256 images each
    found = re.search(r"(\d+) steps of distillation fit, and 300 are better", " ".join(said))
    assert (found is None) == (steps >= 300)
    assert found is None or int(found[1]) == steps


def test_a_time_that_is_short_is_said_with_one_that_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2.0)
    said: list[str] = []
    first, _ = plan(LAYOUT, "10", 900.0, said.append)
    [note] = [line for line in said if line.startswith("note: ")]
    found = re.search(r"(\d+) epochs? of pretraining fit, and (\d+) are better: give about --time (\d+)m", note)
    assert found, note
    epochs, better, minutes = map(int, found.groups())
    assert epochs == first.pretrain_epochs < better
    said.clear()
    longer, _ = plan(LAYOUT, "10", 60.0 * minutes, said.append)
    assert longer.pretrain_epochs >= 0.9 * better
    assert not [line for line in said if line.startswith("note: ")]
