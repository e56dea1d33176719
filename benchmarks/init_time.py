"""Does a training take as long as `edgekit init --time` says? Predicted against actual, by wall clock and by processor time.

    python benchmarks/init_time.py FOLDER... [--times 2m 4m 20m] [--labels 10] [--work WORK] [--output RESULT.json]

Each folder is one that `edgekit init` takes. For every folder and time, a recipe is written and trained as it stands, in processes of
their own. On a machine that does other work meanwhile, the wall clock says more about that work: the busy share (processor time of the
training over wall clock and processors) and the load average stand beside each row, and a row that was disturbed says so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.processors import usable_cpus
from edgekit.result import now

_WITHIN = 0.25
_EDGEKIT = [sys.executable, "-m", "edgekit"]


def run(arguments: list[str]) -> tuple[str, float, float]:
    """Standard error of a command, its seconds and its seconds of processor time."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([*_EDGEKIT, *arguments], capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"edgekit {' '.join(arguments)}: {done.stderr.strip()[-500:]}")
    return done.stderr, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds_of(text: str) -> int:
    """Of `6:12` or `1:06:12`."""
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part)
    return total


def measure(folder: Path, asked: str, labels: str, work: Path) -> dict[str, Any]:
    """One recipe, written and trained."""
    name = f"{folder.name}-{asked}"
    recipe, place = work / f"{name}.yaml", work / name
    load = os.getloadavg()[0]
    said, measuring, _ = run(
        ["init", str(folder), "--labels", labels, "--time", asked, "--output", str(recipe), "--force"]
    )
    predicted = re.search(r"should take ([\d:]+) on this machine", said)
    assert predicted is not None, said
    told, actual, processor = run(["train", str(recipe), "--run", str(place)])
    announced = re.search(r"expected to take about .*? \((.*?)\), by", told)
    row = {
        "folder": folder.name, "asked": asked, "labels": labels, "predicted_s": seconds_of(predicted[1]),
        "actual_s": round(actual, 1), "processor_s": round(processor, 1), "measuring_s": round(measuring, 1),
        "busy_share": round(processor / actual / usable_cpus(), 3), "load_before": round(load, 1),
        "announced": announced[1] if announced else None,
        "network": next(line.split("#")[0].strip() for line in recipe.read_text().splitlines() if "encoder:" in line),
    }  # fmt: skip
    row["ratio"] = round(row["actual_s"] / row["predicted_s"], 3)
    row["within_25_percent"] = abs(row["ratio"] - 1) <= _WITHIN
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--times", nargs="+", default=["2m", "4m", "20m"])
    parser.add_argument("--labels", default="10")
    parser.add_argument("--work", type=Path, default=Path("runs/init-time"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for folder in options.folders:
        for asked in options.times:
            rows.append(measure(folder, asked, options.labels, options.work))
            print(json.dumps(rows[-1]), flush=True)
            if options.output is not None:
                content = {
                    "what": "seconds that `edgekit init --time` predicts for a whole training, and that it takes",
                    "created": now(),
                    "command": ["python", "benchmarks/init_time.py", *sys.argv[1:]],
                    "machine": this_machine().model_dump(mode="json"),
                    "rows": rows,
                }
                write_json(options.output, content)


if __name__ == "__main__":
    main()
