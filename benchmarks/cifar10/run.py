"""CIFAR-10 with 1 % and 10 % of the labels, three draws each: teacher, distilled student, its INT8, and the student from scratch.

    python benchmarks/cifar10/run.py DATA [--work runs/cifar10] [--jobs 1]

DATA holds train/ and test/, each with one folder a class (60,000 PNG files). The encoder is pretrained once; each of the six
label draws then trains its own teacher, student and supervised student. Interrupted, it goes on where it was. The result,
with machine, versions, seeds and every accuracy, is written to benchmarks/results/cifar10.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.files import write_json
from edgekit.machine import Machine, this_machine
from edgekit.result import Result, now
from edgekit.run import Run
from edgekit.stages import STAGES

HERE = Path(__file__).resolve().parent
BUDGETS = {0.01: [], 0.1: ["finetune.epochs=25", "distill.epochs=15", "supervised.epochs=80"]}
SEEDS = (0, 1, 2)
MODELS = ("teacher", "student", "student_int8", "supervised")


def edgekit(*arguments: str, threads: int) -> None:
    """One command, its output shown; stops the benchmark where it fails."""
    print("$ edgekit", *arguments, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run([sys.executable, "-m", "edgekit", *arguments], check=True, env=environment)


def settings(data: Path, budget: float, seed: int) -> list[str]:
    values = [
        f"data.labeled={data / 'train'}",
        f"data.test={data / 'test'}",
        f"data.labels={budget}",
        f"data.label_seed={seed}",
    ]
    return [part for value in [*values, *BUDGETS[budget]] for part in ("--set", value)]


def cell(data: Path, work: Path, budget: float, seed: int, threads: int) -> dict:
    """Train, evaluate and export one label draw, and collect what came out."""
    run, recipe = work / f"{budget}-{seed}", str(HERE / "recipe.yaml")
    edgekit(
        "train",
        recipe,
        *settings(data, budget, seed),
        "--run",
        str(run),
        "--reuse",
        str(work / "base"),
        threads=threads,
    )
    edgekit("evaluate", str(run), threads=threads)
    edgekit("export", str(run), "--target", "onnx", "--max-drop", "1", threads=threads)
    scores = Result.read(run / "evaluate" / "evaluation.json").measurement
    bundle = Bundle.open(run / "export")
    int8, fp32 = bundle.variant("onnx-int8"), bundle.variant("onnx-fp32")
    records = {stage: Run(run).require(stage) for stage in STAGES}
    return {
        "labels": budget,
        "label_seed": seed,
        "labeled_images": records["data"].metrics["images"]["labeled"],
        "knn": scores.value("encoder", "knn"),
        "linear": scores.value("encoder", "linear"),
        "teacher": scores.value("teacher", "top1"),
        "student": scores.value("student", "top1"),
        "student_int8": int8.accuracy.value,
        "supervised": scores.value("supervised", "top1"),
        "onnx_fp32_max_abs_diff": fp32.parity.max_abs_diff,
        "onnx_fp32_top1_agreement": fp32.parity.agreement,
        "int8_quantization": int8.quantization,
        "seconds": {stage: round(record.seconds, 1) for stage, record in records.items()},
        "threads": threads,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--jobs", type=int, default=1, help="label draws at a time, each with its share of the cores")
    parser.add_argument("--output", type=Path, default=HERE.parent / "results" / "cifar10.json")
    arguments = parser.parse_args()
    machine = this_machine()
    base = [str(HERE / "recipe.yaml"), *settings(arguments.data, 0.01, 0)]
    edgekit("train", *base, "--until", "pretrain", "--run", str(arguments.work / "base"), threads=machine.cores)

    threads = max(1, machine.cores // arguments.jobs)
    cells: list[dict] = []
    tasks = [(budget, seed) for seed in SEEDS for budget in reversed(BUDGETS)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(cell, arguments.data, arguments.work, *task, threads) for task in tasks]
        for future in as_completed(
            futures
        ):  # written after every draw: what is measured is kept, whatever happens next
            cells.append(future.result())
            cells.sort(key=lambda c: (c["labels"], c["label_seed"]))
            write(arguments.output, machine, arguments.jobs, cells, complete=len(cells) == len(tasks))
    show(cells)
    print(f"written to {arguments.output}")


def write(path: Path, machine: Machine, jobs: int, cells: list[dict], complete: bool) -> None:
    protocol = "10,000 test images, single center view, weights of the last epoch"
    content = {
        "created": now(),
        "complete": complete,
        "command": ["python", "benchmarks/cifar10/run.py", "DATA", f"--jobs={jobs}"],
        "machine": machine.model_dump(),
        "protocol": f"{protocol}; kNN and linear probe on 5,000 images outside the pool",
        "seeds": {"weights and batches": 0, "label draws": list(SEEDS)},
        "cells": cells,
    }
    write_json(path, content)


def show(cells: list[dict]) -> None:
    print(f"\nkNN {cells[0]['knn']:.1%}, linear probe {cells[0]['linear']:.1%} of the pretrained encoder")
    print(f"{'labels':>8} {'model':<14} {'mean':>7} {'draws':>24} {'over supervised':>16}")
    for budget in BUDGETS:
        rows = [c for c in cells if c["labels"] == budget]
        for model in MODELS:
            values = [c[model] for c in rows]
            gain = statistics.mean(c[model] - c["supervised"] for c in rows)
            draws = ", ".join(f"{v:.1%}" for v in values)
            print(f"{budget:>8.0%} {model:<14} {statistics.mean(values):>7.1%} {draws:>24} {gain * 100:>+13.1f} pt")


if __name__ == "__main__":
    main()
