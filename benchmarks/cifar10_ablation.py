"""What each part of the label stages brings on CIFAR-10, one at a time, from the encoder of a run of one hour.

    python benchmarks/cifar10_ablation.py RECIPE RUN [--labels 0.01 0.1] [--work WORK] [--output RESULT.json]

RECIPE is what `edgekit init CIFAR10 --labels 0.01 --time 60m` wrote, and RUN a run of it whose pretraining is complete: every row takes that
encoder over by `--reuse` and changes one thing. "teacher" rows end after fine-tuning, "student" rows after distillation, "scratch" rows
after the baseline. Interrupted, the same command goes on where it was. The result is written to
benchmarks/results/cifar10_ablation.json after every row.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgekit.files import write_json
from edgekit.foreign import read_json
from edgekit.machine import installed_packages, this_machine
from edgekit.result import now

HERE = Path(__file__).resolve().parent
_EDGEKIT = [sys.executable, "-m", "edgekit"]
_NO_CONSISTENCY = ["finetune.consistency.enabled=false"]
_BEFORE = [
    *_NO_CONSISTENCY, "finetune.linear_first=false", "finetune.ema=0.0", "finetune.keep_projection_layers=1",
    "finetune.augmentation.crop_scale=[0.08,1.0]",
]  # fmt: skip
# The name of a row, the last stage that it needs, and what differs from the recipe.
ROWS: list[tuple[str, str, list[str]]] = [
    ("default", "finetune", []),
    ("no consistency on pseudo-labels", "finetune", _NO_CONSISTENCY),
    ("no linear head first", "finetune", ["finetune.linear_first=false"]),
    ("one projection layer kept", "finetune", ["finetune.keep_projection_layers=1"]),
    ("strong crops", "finetune", ["finetune.augmentation.crop_scale=[0.08,1.0]"]),
    ("no average of the weights", "finetune", ["finetune.ema=0.0"]),
    ("layer-wise decay 0.7", "finetune", ["finetune.layer_decay=0.7"]),
    ("none of these", "finetune", _BEFORE),
    ("default", "distill", []),
    ("teacher without consistency", "distill", _NO_CONSISTENCY),
    ("none of these", "distill", _BEFORE),
    ("one setting", "supervised", ["supervised.search=false"]),
    ("best of up to four settings on the probe set", "supervised", []),
]
_MODELS = {"finetune": "teacher", "distill": "student", "supervised": "scratch"}


def measure(recipe: Path, first: Path, labels: str, row: tuple[str, str, list[str]], work: Path) -> dict[str, Any]:
    """Train one row and read its test accuracy."""
    name, stage, changes = row
    run = work / f"{labels}-{_MODELS[stage]}-{name.replace(' ', '-')}"
    sets = [part for change in (f"data.labels={labels}", *changes) for part in ("--set", change)]
    command = [*_EDGEKIT, "train", str(recipe), "--run", str(run), "--reuse", str(first), "--until", stage, *sets]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()[-800:]}")
    record = read_json(run / stage / "stage.json")
    metrics = record["metrics"]
    return {
        "labels": labels, "model": _MODELS[stage], "row": name, "changes": changes, "test_top1": metrics["test_top1"],
        "choice": metrics.get("choice"), "epochs": record["inputs"]["config"]["epochs"], "steps": metrics.get("steps"),
        "seconds": round(record["seconds"]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--labels", nargs="+", default=["0.01", "0.1"])
    parser.add_argument("--work", type=Path, default=Path("runs/cifar10-ablation"))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "cifar10_ablation.json")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = read_json(arguments.output)["rows"] if arguments.output.exists() else []
    for row in ROWS:
        for labels in arguments.labels:
            if any((done["labels"], done["model"], done["row"]) == (labels, _MODELS[row[1]], row[0]) for done in rows):
                continue
            rows.append(measure(arguments.recipe, arguments.run, labels, row, arguments.work))
            print(rows[-1]["labels"], rows[-1]["model"], rows[-1]["row"], rows[-1]["test_top1"], flush=True)
            content = {
                "what": "test accuracy on CIFAR-10 (10,000 images) of the teacher, the student and its network from scratch; one thing changed a row",
                "created": now(),
                "command": ["python", "benchmarks/cifar10_ablation.py", *sys.argv[1:]],
                "machine": this_machine().model_dump(mode="json"),
                "packages": installed_packages(),
                "seeds": {"weights, batches, sets": 0, "label draw": 0},
                "rows": rows,
            }
            write_json(arguments.output, content)


if __name__ == "__main__":
    main()
