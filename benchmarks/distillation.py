"""What mixed images and a start from the encoder bring the student, on the sets and label budgets of `promise.py`.

    python benchmarks/distillation.py --work WORK [--cells photographs-1,textures-50] [--output RESULT.json]

WORK is the folder of `benchmarks/promise.py`, whose runs of these cells are complete up to fine-tuning. Each cell is distilled four times by its
own recipe, from the same teacher: with and without `distill.mixup`, from new weights and from the encoder's. Interrupted, the same command
goes on where it was. The result is written to benchmarks/results/distillation.json after every distillation.
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
CELLS = "textures-50,photographs-50,mnist-1,photographs-1"
WAYS = {
    "neither": ("0", "new"),
    "mixed images": ("0.5", "new"),
    "start from the encoder": ("0", "encoder"),
    "both": ("0.5", "encoder"),
}


def distilled(cell: str, way: str, work: Path) -> dict[str, Any]:
    """Distill one cell; the test accuracy of the student and of its teacher."""
    name, labels = cell.rsplit("-", 1)
    source, run = work / "runs" / f"{cell}-0", work / "distillation" / f"{cell}-{way.replace(' ', '-')}"
    mixup, start = WAYS[way]
    changes = {"data.labels": labels, "data.label_seed": 0, "distill.mixup": mixup, "distill.start": start}
    sets = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "edgekit", "train", str(work / f"{name}.yaml"), "--run", str(run)]
    done = subprocess.run(
        [*command, "--reuse", str(source), "--until", "distill", *sets], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()[-800:]}")
    teacher, student = (read_json(run / stage / "stage.json")["metrics"] for stage in ("finetune", "distill"))
    return {"cell": cell, "way": way, "student": student["test_top1"], "teacher": teacher["test_top1"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/promise"), help="folder of benchmarks/promise.py")
    parser.add_argument("--cells", default=CELLS, help="SET-LABELS, separated by commas")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "distillation.json")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = read_json(arguments.output)["rows"] if arguments.output.exists() else []
    for cell in arguments.cells.split(","):
        for way in WAYS:
            if not any((row["cell"], row["way"]) == (cell, way) for row in rows):
                rows.append(distilled(cell, way, arguments.work))
                print(f"{cell:<16}{way:<26}{rows[-1]['student']:.3f}   teacher {rows[-1]['teacher']:.3f}", flush=True)
                write_json(
                    arguments.output,
                    {
                        "what": "test accuracy of the student by what its images and its first weights are, and of its teacher",
                        "created": now(),
                        "command": ["python", "benchmarks/distillation.py", *sys.argv[1:]],
                        "machine": this_machine().model_dump(mode="json"),
                        "packages": installed_packages(),
                        "seeds": {"of weights, batches and label draw": 0},
                        "rows": rows,
                    },
                )


if __name__ == "__main__":
    main()
