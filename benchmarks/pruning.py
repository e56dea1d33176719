"""Does `edgekit search --prune` give a better network than what else fits the same budget?

    python benchmarks/pruning.py --data FASHION_MNIST

The list of candidates is coarse: resnet10 in the widths 0.25 and 0.5 at 16 pixels, and the budget lies in the middle between their p50. With
several seeds, the search trains the smaller one, prunes the larger one to the budget, and says which it keeps. Then the other networks within
the budget are distilled from the same teacher for as many epochs as the pruning took in all (2 1/3 times those of the winner): the smaller
candidate, the channels of the pruned network from new weights, and the widest resnet10 that a finer list has within the budget. At the end, all of
them are measured in turns.

The data folder holds train/ and test/ with one folder a class, from which the first images of each class are linked into --work. Written to
results/pruning.json. Interrupted, it goes on where it was. On one core: `taskset -c 0 env OMP_NUM_THREADS=1 python …`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

import edgekit
from edgekit.bundle import Bundle
from edgekit.data.splits import Splits, load_splits
from edgekit.files import write_text
from edgekit.machine import this_machine
from edgekit.recipe import Architecture, Recipe, load
from edgekit.result import Search, now
from edgekit.search.budget import parse_budget
from edgekit.search.candidates import Candidate
from edgekit.search.devices import ThisMachine
from edgekit.search.measure import Turns, in_turns
from edgekit.search.rounds import Training
from edgekit.search.untrained import export_untrained
from result_files import write_rows
from search_choice import DISTILLATION
from search_quality import subset

TRAIN, TEST = 240, 500  # images of each class
SEEDS = (0, 1, 2)
COARSE = (0.25, 0.5)
FINE = (0.28125, 0.3125, 0.34375, 0.375, 0.40625, 0.4375)
TURNS, SECONDS = 9, 0.5
RECIPE = (
    """\
# Written by benchmarks/pruning.py
name: pruning
seed: {seed}
data:
  labeled: {folder}/train
  test: {folder}/test
  probe: 0.1
  labels: 150  # per class
  image_size: 16
pretrain:
  encoder: {{name: resnet10, width: 0.5}}
  epochs: 3
  batch_size: 128
finetune:
  epochs: 12
"""
    + DISTILLATION
)


@dataclass(frozen=True)
class Arm:
    """A network of one seed, with its training."""

    candidate: Candidate
    epochs: float
    test: float
    minutes: float | None = None


class Seed:
    """The trainings of one seed."""

    def __init__(self, work: Path, seed: int) -> None:
        self.folder = work / f"seed-{seed}"
        self.folder.mkdir(exist_ok=True)
        self.seed = seed
        write_text(self.folder / "recipe.yaml", RECIPE.format(folder=work / "images", seed=seed))
        self.recipe: Recipe = load(self.folder / "recipe.yaml")
        self.splits: Splits = load_splits(self.recipe.data)
        self.training = Training(self.recipe, self.folder / "search", lambda size: self.splits)

    def widths(self, widths: tuple[float, ...]) -> list[Candidate]:
        architecture = self.recipe.distill.student
        return [Candidate(architecture.model_copy(update={"width": w}), self.recipe.data.image_size) for w in widths]

    def search(self, budget: str) -> Search:
        """Search and prune, as the command does it."""
        result = edgekit.search(
            self.folder / "recipe.yaml",
            budget=budget,
            candidate={"name": "resnet10", "width": list(COARSE)},
            target="onnx",
            precision="fp32",
            threads=1,
            max_drop=100,
            prune=True,
            run=self.folder / "search",
        )
        assert isinstance(result.measurement, Search)
        return result.measurement

    def distilled(self, candidate: Candidate, epochs: int) -> Arm:
        """Distill a network from new weights."""
        scored = self.training.short(candidate, epochs)
        assert not scored.error, scored.error
        record = self.training.short_run(candidate, epochs).require("distill")
        return Arm(candidate, epochs, record.metrics["test_top1"], round(scored.seconds / 60, 2))

    def in_full(self, name: str, candidate: Candidate, epochs: float) -> Arm:
        """What the search trained in full."""
        record = edgekit.Run(self.folder / "search" / "full" / name).require("distill")
        return Arm(candidate, epochs, record.metrics["test_top1"])

    def bundle(self, candidate: Candidate) -> Bundle:
        folder = self.folder / "measured" / candidate.name
        return export_untrained(candidate, self.recipe, self.splits, folder, ("onnx",), ("fp32",))


def measured(seed: Seed, candidates: list[Candidate], folder: Path) -> dict[str, dict[str, Any]]:
    """Measure untrained networks in turns: name -> p50 and its ratio, turn by turn, to the first network's (median)."""
    bundles = [seed.bundle(candidate) for candidate in candidates]
    device = ThisMachine(threads=1)
    turns = [Turns(b, folder / b.manifest.name, device, [], SECONDS, 1, everything=True) for b in bundles]
    in_turns(turns, TURNS)
    first = np.array(turns[0].medians("onnx-fp32"))
    return {
        candidate.name: {
            "p50_ms": float(np.median(one.medians("onnx-fp32"))),
            "ratio": round(float(np.median(np.array(one.medians("onnx-fp32")) / first)), 4),
        }
        for candidate, one in zip(candidates, turns, strict=True)
    }


def of_seed(work: Path, number: int, budget: str, finer: float) -> tuple[dict[str, Arm], dict[str, Any]]:
    """Return the networks of a seed, and what is written of it."""
    seed = Seed(work, number)
    found = seed.search(budget)
    smaller, larger = seed.widths(COARSE)
    record = found.pruning
    if record is None or record.name is None:
        raise SystemExit(f"seed {number}: nothing was pruned: {record.outcome if record else 'it was not tried'}")
    listed = found.candidate(record.name)
    assert listed is not None
    full, in_all = seed.training.epochs(smaller), record.epochs
    assert in_all is not None
    kept = Architecture.model_validate(listed.student)
    architecture = kept.model_copy(update={"weights": None, "weights_key": None, "mean": None, "std": None})
    pruned = Candidate(kept, larger.image_size, record.name)
    again = Candidate(architecture, larger.image_size, f"{record.name}-new")
    [fine] = seed.widths((finer,))
    arms = {
        "pruned": seed.in_full(record.name, pruned, in_all),
        "smaller, as the search trains it": seed.in_full(smaller.name, smaller, full),
        "smaller": seed.distilled(smaller, in_all),
        "the pruned channels from new weights": seed.distilled(again, in_all),
        "finer width": seed.distilled(fine, in_all),
        "larger, outside the budget": seed.distilled(larger, full),
    }
    names = {
        "smaller": smaller,
        "the pruned channels from new weights": again,
        "finer width": fine,
        "larger, outside the budget": larger,
    }
    latency = measured(seed, list(names.values()), seed.folder / "turns")
    content = {
        "seed": number,
        "teacher_test": round(edgekit.Run(seed.folder / "search" / "teacher").require("finetune").metrics["test_top1"], 4),
        "test": {name: round(arm.test, 4) for name, arm in arms.items()},
        "p50_against_smaller": {name: latency[one.name]["ratio"] for name, one in names.items()},
        "channels_removed": record.steps[-1].removed,
        "kept_by_the_search": record.kept,
        "probe_pruned_and_smaller": [record.score, record.against_score],
        "p50_trained_against_untrained": {
            one.candidate: variant.ratio for one in found.trained for variant in one.variants if variant.id == one.variant
        },
        "minutes": {phase: round(seconds / 60, 2) for phase, seconds in found.seconds.items()},
    }  # fmt: skip
    print(content, flush=True)
    return arms, content


def difference(one: list[float], other: list[float]) -> dict[str, Any]:
    """The difference of paired test accuracies in points: of each seed, their mean, its standard deviation and 95 % interval (Student's t)."""
    points = 100 * (np.array(one) - np.array(other))
    spread = float(points.std(ddof=1))
    half = float(student_t.ppf(0.975, len(points) - 1)) * spread / np.sqrt(len(points))
    return {
        "points": [round(float(p), 2) for p in points],
        "mean": round(float(points.mean()), 2),
        "standard_deviation": round(spread, 2),
        "interval_95": [round(float(points.mean() - half), 2), round(float(points.mean() + half), 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs") / "pruning")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "pruning.json")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    subset(arguments.data, work / "images", TRAIN, TEST)
    first = Seed(work, arguments.seeds[0])
    listed = first.widths((*COARSE, *FINE))
    untrained = measured(first, listed, work / "turns")
    low, high = (untrained[candidate.name]["p50_ms"] for candidate in listed[: len(COARSE)])
    limit = round(1000 * (low + high) / 2, 1)
    budget = parse_budget(f"p50 < {limit} us")
    within = [
        width
        for width, one in zip(FINE, listed[len(COARSE) :], strict=True)
        if budget.allows(untrained[one.name]["p50_ms"])
    ]
    if not within:
        raise SystemExit(f"no width of {FINE} is within {budget}: {untrained}")
    print(untrained, budget, within, flush=True)
    found = [of_seed(work, seed, str(budget), max(within)) for seed in arguments.seeds]
    test = {name: [arms[name].test for arms, _ in found] for name in found[0][0]}
    content: dict[str, Any] = {
        "created": now(),
        "machine": this_machine().model_dump(),
        "command": f"python benchmarks/pruning.py --data {arguments.data} --seeds {' '.join(map(str, arguments.seeds))}",
        "protocol": f"Fashion-MNIST at 16 px, {TRAIN} training and {TEST} test images per class; onnx-fp32, one thread",
        "budget": str(budget),
        "untrained": untrained,
        "finer_width": max(within),
        "epochs": {name: arm.epochs for name, arm in found[0][0].items()},
        "test_mean": {name: round(float(np.mean(values)), 4) for name, values in test.items()},
        "pruned_minus": {name: difference(test["pruned"], values) for name, values in test.items() if name != "pruned"},
        "seeds": [content for _, content in found],
    }
    write_rows(arguments.output, content)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
