"""Whether short rounds of training rank students as their full training does: the part `choice` of search_quality.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from edgekit import claims
from edgekit.data.splits import Splits, load_splits
from edgekit.recipe import Recipe, load
from edgekit.recipe.budget import epoch_steps
from edgekit.search.candidates import Candidate, chosen_candidates
from edgekit.search.rounds import Halving, Training
from edgekit.sizes import ImageSize

TRAIN, TEST = 300, 200  # images of each class
LENGTHS = (1, 3)  # epochs of the short rounds, as the search chooses them for
FULL = 9
SEEDS = (0, 1, 2)
DRAWS = 2000
CANDIDATES = (
    "{name: resnet10, width: [0.125, 0.25, 0.5, 1], stem: strided}",
    "{name: resnet10, width: [0.125, 0.25, 0.5]}",
    "{name: resnet18, width: 0.125}",
    "{name: resnet18, width: 0.125, stem: strided}",
)
DISTILLATION = """\
distill:
  student: {{name: resnet10, width: 0.25}}
  epochs: 9
  batch_size: 64
  labeled_weight: 0.2
  optimizer: {{name: adamw, lr: 0.002, scale_lr: false, weight_decay: 0.01}}
supervised: {{enabled: false}}
monitor: {{every: 0}}
hardware: {{accelerator: cpu, threads: 1}}
"""
# What is trained after the pretraining, in both parts.
TRAINING = "finetune:\n  epochs: 20\n" + DISTILLATION
_HEAD = """\
# Written by benchmarks/search_quality.py
name: search
data:
  labeled: {folder}/train
  test: {folder}/test
  probe: 0.3334
  labels: 100  # per class
  image_size: 16
pretrain:
  encoder: {{name: resnet10, width: 0.5, stem: strided}}
  epochs: 10
  batch_size: 128
"""
RECIPE = _HEAD + TRAINING


class _Seeded(Training):
    """The trainings of one seed, all with the teachers of the first."""

    def __init__(self, recipe: Recipe, folder: Path, splits: Mapping[ImageSize, Splits], seed: int) -> None:
        seeded = recipe.model_copy(update={"seed": seed})
        super().__init__(seeded, folder / f"seed-{seed}", lambda size: splits[ImageSize.of(size)])
        self._teachers = Training(recipe, folder, self.splits_of)

    def teacher_run(self, image_size: ImageSize) -> Any:
        return self._teachers.teacher_run(image_size)


def train_all(work: Path) -> tuple[dict[str, dict[str, Any]], Splits]:
    """Train every student with every seed in short rounds of every length and in full; share the work with other processes.

    Returns:
        "NAME SEED EPOCHS" -> {score, test, seconds}; the splits at the recipe's resolution.
    """
    recipe = load(work / "recipe.yaml")
    candidates = {candidate.name: candidate for candidate in chosen_candidates(recipe, CANDIDATES)}
    splits = {
        size: load_splits(Candidate(recipe.distill.student, size).in_recipe(recipe).data)
        for size in {candidate.image_size for candidate in candidates.values()}
    }
    work_shared = claims.SharedWork(str(work / "choice.db"))
    of_size = {str(candidate.image_size): candidate for candidate in candidates.values()}
    trainings = {seed: _Seeded(recipe, work, splits, seed) for seed in SEEDS}

    def teach(size: str) -> tuple[dict[str, Any], float | None]:
        trainings[SEEDS[0]]._teachers.teach(of_size[size])
        return {}, None

    claims.share(work_shared.kind("teachers"), list(of_size), teach)

    def make(key: str) -> tuple[dict[str, Any], float | None]:
        name, seed, epochs = key.split()
        training, candidate = trainings[int(seed)], candidates[name]
        scored = training.short(candidate, int(epochs))
        record = training.short_run(candidate, int(epochs)).require("distill")
        print(f"{key}: {scored.score:.3f}, test {record.metrics['test_top1']:.3f} ({scored.seconds:.0f} s)", flush=True)
        content = {"score": scored.score, "test": record.metrics["test_top1"], "seconds": round(scored.seconds, 1)}
        return content, scored.score

    keys = [f"{name} {seed} {epochs}" for seed in SEEDS for epochs in (*LENGTHS, FULL) for name in candidates]
    return claims.share(work_shared.kind("trainings"), keys, make), splits[recipe.data.image_size]


def report(done: Mapping[str, dict[str, Any]], splits: Splits, seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Return what the trainings show, as JSON."""
    names = list(dict.fromkeys(key.split()[0] for key in done))

    def table(epochs: int, what: str) -> np.ndarray:
        """(seeds, students)."""
        return np.array([[done[f"{name} {seed} {epochs}"][what] for name in names] for seed in seeds])

    short = {epochs: table(epochs, "score") for epochs in LENGTHS}
    full = table(FULL, "test")
    best = full.mean(0)
    steps = epoch_steps("distill", len(splits.pool), 64)
    order = np.argsort(-best)
    return {
        "images": {"pool": len(splits.pool), "probe": len(splits.probe), "test": len(splits.test)},
        "steps_per_epoch": steps,
        "seeds": list(seeds),
        "students": [
            {
                "candidate": names[i],
                **{f"score_{epochs}": rounded(short[epochs][:, i]) for epochs in LENGTHS},
                "full_score": rounded(table(FULL, "score")[:, i]),
                "full_test": rounded(full[:, i]),
                "minutes": round(sum(done[f"{names[i]} {seed} {FULL}"]["seconds"] for seed in seeds) / 60 / len(seeds), 2),
            }
            for i in order
        ],
        "rank_correlation": {
            **{f"{epochs} epochs ({epochs * steps} steps)": correlation(short[epochs], full) for epochs in LENGTHS},
            "of another seed's full training": correlation(table(FULL, "score"), full),
        },
        "choices": {
            f"rounds of {', '.join(map(str, lengths))} epochs": choices(lengths, short, full, names)
            for lengths in ((1, 3), (3,), (1,))
        },
    }  # fmt: skip


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def correlation(scores: np.ndarray, full: np.ndarray) -> dict[str, Any]:
    """Spearman's correlation of the scores (seeds, students) of one seed with the mean full accuracy (seeds, students) of the others.

    A search has one seed, and its full training another initialization as far as the ranking is concerned: the seed of the scores is left out of the
    mean. The interval is of a bootstrap over the students and, within each draw, over the seeds.
    """

    def of(students: np.ndarray, seeds: Sequence[int]) -> float:
        found = []
        for seed in seeds:
            others = [other for other in range(len(full)) if other != seed] or [seed]
            found.append(spearmanr(scores[seed, students], full[others][:, students].mean(0)).statistic)
        return float(np.nanmean(found))

    count, draws = full.shape[1], np.random.default_rng(0)
    drawn = [of(draws.integers(0, count, count), draws.integers(0, len(full), len(full))) for _ in range(DRAWS)]
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return {
        "spearman": round(of(np.arange(count), range(len(full))), 3),
        "interval_95": [round(float(low), 3), round(float(high), 3)],
    }


def choices(
    lengths: Sequence[int], short: Mapping[int, np.ndarray], full: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """What successive halving chooses with each seed, and how many points of test accuracy it loses against the best student.

    The accuracy of a student is the mean over the seeds of its full trainings; the noise of that is `seed_points`, the standard deviation between
    two trainings of the same student.
    """
    mean = full.mean(0)
    chosen = []
    for seed in range(len(full)):
        left = np.arange(len(names))
        for number, epochs in enumerate(lengths):
            left = left[np.argsort(-short[epochs][seed, left], kind="stable")]
            if number < len(lengths) - 1:
                left = left[: Halving().kept(len(left))]
        chosen.append(int(left[0]))
    lost = [100 * float(mean.max() - mean[i]) for i in chosen]
    return {
        "chosen": [names[i] for i in chosen],
        "points_lost": [round(value, 2) for value in lost],
        "of_all": round(100 * float(mean.max() - mean.mean()), 2),
        "seed_points": round(100 * float(np.sqrt(full.var(0, ddof=1).mean())), 2) if len(full) > 1 else None,
        "places": [int((mean > mean[i]).sum()) + 1 for i in chosen],
    }
