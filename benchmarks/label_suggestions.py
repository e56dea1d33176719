"""Suggested labels against random ones: accuracy of the nearest centroid on the frozen encoder, after 10 and 50 labels in all.

    python benchmarks/label_suggestions.py RUN [RUN...]

Each RUN is pretrained on class folders (`edgekit train RECIPE --until pretrain`): its pool's images stand for the pile, and the labels
that a person would give are the folders' names. The suggestions are those of `edgekit label suggest` (TypiClust), over seeds of k-means;
random labels are drawn as often from the same images. The classifier is the nearest centroid of l2-normalized features, measured on the
run's test set: it does not depend on how many labels each class has. A class without a label counts as wrong.
Prints a table and writes benchmarks/results/label_suggestions.json.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import torch

from edgekit import __version__
from edgekit.data.sources import open_labeled
from edgekit.data.splits import load_splits
from edgekit.machine import cpu_name
from edgekit.models.store import load_pretrained
from edgekit.run import Run
from edgekit.train.analysis.suggest import typical
from edgekit.train.evaluate import apply, device_of, labels_of
from edgekit.train.evaluate.few_shot import nearest_centroid

BUDGETS = (10, 50)
SEEDS = 10


def features_of(run: Run) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Features and classes of the pool and of the test set, and the number of classes."""
    recipe = run.recipe
    splits = load_splits(recipe.data, run)
    source = open_labeled(str(recipe.data.labeled), data=recipe.data)
    assert source.labels is not None
    classes = dict(zip(source.names, source.labels, strict=True))
    encoder = load_pretrained(run.stage_path("pretrain")).encoder
    pool, test = splits.pool.center_crop(recipe.data.image_size), splits.test
    found = [apply(encoder, s.images, recipe.data.mean, recipe.data.std, device_of(recipe)) for s in (pool, test)]
    known = torch.tensor([int(classes[name]) for name in pool.names])
    return found[0], known, found[1], labels_of(test), len(splits.classes)


def accuracy(
    rows: list[int], known: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, truth: torch.Tensor
) -> float:
    """Of the classifier that the images at `rows` train."""
    there, theirs = labels[rows].unique(return_inverse=True)
    predicted = there[nearest_centroid(known[rows], theirs, queries, len(there))]
    return float((predicted == truth).double().mean())


def measure(path: Path) -> list[dict[str, object]]:
    """The rows of one run."""
    run = Run.open(path)
    known, labels, queries, truth, classes = features_of(run)
    nothing = np.zeros(len(known), dtype=bool)
    rows = []
    for budget in BUDGETS:
        for how in ("suggested", "random"):
            values, covered = [], []
            for seed in range(SEEDS):
                drawn = np.random.default_rng(seed).permutation(len(known))[:budget].tolist()
                chosen = typical(known.numpy(), nothing, budget, seed) if how == "suggested" else drawn
                values.append(accuracy(chosen, known, labels, queries, truth))
                covered.append(len(labels[chosen].unique()))
            rows.append(
                {
                    "run": run.recipe.name, "pool": len(known), "classes": classes, "labels": budget, "choice": how,
                    "accuracy": round(float(np.mean(values)), 4), "deviation": round(float(np.std(values, ddof=1)), 4),
                    "lowest": round(min(values), 4), "classes_covered": round(float(np.mean(covered)), 1),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure every run that the command line names."""
    runs = [Path(argument) for argument in sys.argv[1:]]
    if not runs:
        sys.exit(__doc__)
    rows = [row for run in runs for row in measure(run)]
    result = {
        "command": "python benchmarks/label_suggestions.py " + " ".join(run.name for run in runs),
        "machine": {"cpu": cpu_name(), "cpus": multiprocessing.cpu_count()},
        "versions": {"edgekit": __version__, "torch": torch.__version__, "numpy": np.__version__},
        "seeds": SEEDS,
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / "label_suggestions.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
