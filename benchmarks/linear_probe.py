"""What a linear probe costs with one BLAS thread and with all of them, on an idle machine and beside a busy process.

    python benchmarks/linear_probe.py

The problem: 4,000 rows of 128 correlated features in ten classes, logistic regression by L-BFGS with C = 10, as in `edgekit transfer`.
Prints CPU seconds, wall seconds and iterations. It writes benchmarks/results/linear_probe.json.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from edgekit.machine import cpu_name

ROWS, FEATURES, CLASSES, C = 4000, 128, 10, 10.0


def problem() -> tuple[np.ndarray, np.ndarray]:
    """Features whose standard deviations span two orders of magnitude, mixed, so that L-BFGS needs hundreds of iterations."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, ROWS)
    scales = np.logspace(-2, 0, FEATURES)
    mixing = random.normal(size=(FEATURES, FEATURES)) * scales
    latent = random.normal(size=(ROWS, FEATURES)) + random.normal(size=(CLASSES, FEATURES))[labels] * 0.3
    features = StandardScaler().fit_transform(latent @ mixing.T)
    return features.astype(np.float32), labels


def solve(features: np.ndarray, labels: np.ndarray, threads: int | None) -> dict[str, float]:
    """Seconds and iterations of one fit."""
    model = LogisticRegression(C=C, max_iter=1000)
    with threadpool_limits(threads, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cpu, wall = time.process_time(), time.perf_counter()
        model.fit(features, labels)
        return {
            "cpu_s": round(time.process_time() - cpu, 3),
            "wall_s": round(time.perf_counter() - wall, 3),
            "iterations": int(model.n_iter_[0]),
        }


def _busy() -> None:
    while True:
        pass


def main() -> None:
    """Print and write the table; alternating, three rounds, the median by CPU time."""
    features, labels = problem()
    solve(features, labels, 1)  # loads what there is to load
    rows = []
    for load in (0, 1, 2):
        others = [multiprocessing.Process(target=_busy, daemon=True) for _ in range(load)]
        for other in others:
            other.start()
        rounds = [{"one": solve(features, labels, 1), "all": solve(features, labels, None)} for _ in range(3)]
        for other in others:
            other.terminate()
        for threads in ("one", "all"):
            median = sorted((r[threads] for r in rounds), key=lambda found: found["cpu_s"])[1]
            rows.append({"busy_processes": load, "threads": threads, **median})
            print(rows[-1])
    result = {
        "command": "python benchmarks/linear_probe.py",
        "machine": {
            "cpu": cpu_name(),
            "cpus": multiprocessing.cpu_count(),
            "load_average": round(os.getloadavg()[0], 1),
        },
        "versions": {"scikit-learn": sklearn.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "seed": 0,
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / "linear_probe.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
