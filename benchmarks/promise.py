"""The promise on five sets: the student, from `init`'s recipe as it stands, against the same network from scratch and the frozen probe.

    python benchmarks/promise.py --data DATA [--sets digits,photographs] [--labels 10,1] [--draws 1] [--time 20m] [--work runs/promise]

For each set `edgekit init SET --labels 10 --time 20m` writes a recipe. It is trained as it stands (10 labels a class); for other labels
and draws of labels the same recipe is trained with `data.labels` and `data.label_seed` alone, and the pretraining is taken over by
`--reuse`. `edgekit evaluate` measures. Interrupted, the same command goes on where it was. The result is written to
benchmarks/results/promise.json after every cell; cells of other sets and labels that are there already stay.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgekit.files import write_json
from edgekit.foreign import read_json
from edgekit.machine import installed_packages, this_machine
from edgekit.result import now
from image_sets import FURTHER, SETS, prepare

HERE = Path(__file__).resolve().parent
_EDGEKIT = [sys.executable, "-m", "edgekit"]
# The margins that the project sets itself: below this accuracy from scratch, the student is better by at least so many points.
MARGINS = ((0.70, 0.08), (0.85, 0.03), (1.01, 0.0))


def edgekit(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command; its output."""
    done = subprocess.run([*_EDGEKIT, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"edgekit {' '.join(map(str, arguments))}: {done.stderr.strip()[-800:]}")
    return done


def recipe_of(name: str, work: Path, seconds: str) -> tuple[Path, str]:
    """The set's recipe as `init` writes it, and how long init expects it to take."""
    folder = name if name == "digits" else work / "data" / name
    path, said = work / f"{name}.yaml", work / f"{name}.init.txt"
    if not path.exists():
        told = edgekit("init", folder, "--name", name, "--labels", 10, "--time", seconds, "--output", path).stderr
        said.write_text(told)
    predicted = re.search(r"should take ([\d:]+) on this machine", said.read_text())
    return path, predicted[1] if predicted else "?"


def cell(name: str, labels: int, draw: int, work: Path, seconds: str) -> dict[str, Any]:
    """Train and evaluate one cell of the table."""
    recipe, predicted = recipe_of(name, work, seconds)
    run, first = work / "runs" / f"{name}-{labels}-{draw}", work / "runs" / f"{name}-10-0"
    changes = ["--set", f"data.labels={labels}", "--set", f"data.label_seed={draw}"] if run != first else []
    if changes and not (first / "pretrain" / "stage.json").exists():
        edgekit("train", recipe, "--run", first, "--until", "pretrain")
    began = time.monotonic()
    edgekit("train", recipe, "--run", run, *changes, *(["--reuse", first] if changes else []))
    took = time.monotonic() - began
    measured = json.loads(edgekit("evaluate", run, "--json").stdout)["measurement"]
    scores = {f"{s['model']}_{s['metric']}": s["value"] for s in measured["scores"]}
    stages = {
        stage: read_json(run / stage / "stage.json") for stage in ("pretrain", "finetune", "distill", "supervised")
    }
    choice = stages["finetune"]["metrics"]["choice"]
    difference = next(d for d in measured["differences"] if d["second"] == "supervised")
    return {
        "student": scores["student_top1"], "teacher": scores["teacher_top1"], "frozen_probe": choice["test"]["frozen"],
        "finetuned": choice["test"]["finetuned"], "left": choice["left"], "scratch": scores["supervised_top1"],
        "encoder_knn": scores["encoder_knn"],
        "gain": difference["value"], "interval": difference["interval"], "p_value": difference["p_value"],
        "test_images": difference["samples"],
        "epochs": {stage: record["inputs"]["config"]["epochs"] for stage, record in stages.items()},
        "encoder": stages["pretrain"]["inputs"]["config"]["encoder"], "student_network": stages["distill"]["inputs"]["config"]["student"],
        "seconds": {stage: round(record["seconds"]) for stage, record in stages.items()}, "wall_seconds": round(took),
        "time_asked": seconds, "time_predicted": predicted,
        "advice": measured["advice"],
    }  # fmt: skip


def kept(row: dict[str, Any]) -> bool:
    """Whether a cell meets the margins, and its student is not below the frozen probe."""
    margin = next(margin for bound, margin in MARGINS if row["scratch"] < bound)
    return bool(row["gain"] >= margin and row["gain"] > 0 and row["student"] >= row["frozen_probe"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of mnist/ and cifar10/")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--labels", default="10,1,50,5", help="labels a class, in the order of work")
    parser.add_argument(
        "--draws", type=int, default=1, help="label draws of the cells with 10 labels; the others have one"
    )
    parser.add_argument("--time", default="20m", help="of `edgekit init`")
    parser.add_argument("--work", type=Path, default=Path("runs/promise"))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "promise.json")
    arguments = parser.parse_args()
    cells: list[dict[str, Any]] = read_json(arguments.output)["cells"] if arguments.output.exists() else []
    for name in arguments.sets.split(","):
        prepare(name, arguments.data, arguments.work)
        for labels in map(int, arguments.labels.split(",")):
            for draw in range(arguments.draws if labels == 10 else 1):
                key = {"set": name, "labels": labels, "draw": draw}
                if not any(all(done[k] == v for k, v in key.items()) for done in cells):
                    cells.append({**key, **cell(name, labels, draw, arguments.work, arguments.time)})
                    show(cells[-1:])
                    write(arguments.output, cells)
    show(cells)


def write(output: Path, cells: list[dict[str, Any]]) -> None:
    content = {
        "what": "test accuracy of the student, its teacher, the frozen encoder's linear probe on the same labels, and the student's network "
        "from scratch (best of up to four settings on the probe set); gain is student minus scratch",
        "created": now(),
        "command": ["python", "benchmarks/promise.py", *sys.argv[1:]],
        "machine": this_machine().model_dump(mode="json"),
        "packages": installed_packages(),
        "seeds": {"of weights, batches, test and probe sets": 0, "of the label draw": "`draw` of each cell"},
        "cells": cells,
    }
    write_json(output, content)


def show(cells: list[dict[str, Any]]) -> None:
    """The table, in percent."""
    columns = ("student", "teacher", "frozen_probe", "scratch", "gain")
    print(
        f"{'set':<10}{'labels':>7}{'draw':>5}"
        + "".join(f"{name:>13}" for name in columns)
        + "   95 % interval   promise"
    )
    order = [*SETS, *FURTHER]
    for row in sorted(cells, key=lambda row: (order.index(row["set"]), row["labels"], row["draw"])):
        values = "".join(f"{100 * row[name]:>13.1f}" for name in columns)
        where = f"{row['set']:<10}{row['labels']:>7}{row['draw']:>5}"
        interval = " to ".join(f"{100 * bound:+.1f}" for bound in row["interval"])
        print(f"{where}{values}   {interval:<15}   {'kept' if kept(row) else 'NOT kept'}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
