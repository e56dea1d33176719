"""What a device has to take: the wheel with one runtime, installed into a fresh environment.

    python benchmarks/device_install.py [--extra ort] [--runs 21] [--output benchmarks/results/device_install.json]

Packs the wheel of this edgekit, makes a virtual environment with nothing else in it, and installs the wheel with one extra. Then:
the size of every package on the disk, bytecode included; what of the training stack is there (nothing may be); the golden tensors of a small
bundle, proved there by `edgekit doctor`; and, each in a fresh process and after one that is not counted, the times of

- `import`: what a program that predicts imports of edgekit (`edgekit.bundle`, `edgekit.runtimes.predictor`), without the runtime;
- `with runtime`: the same and the runtime itself;
- `edgekit --help` and `edgekit --version`, whole processes, Python's own start among them;
- `python -c pass`, for comparison.

Needs uv and onnx (for the small bundle). Quiet machine, please: the times are medians, all of them are in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from edgekit.bench.remote import wheel
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.result import now
from tiny_bundle import make_bundle  # the tests' own

TRAINING = (
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "onnx",
    "scikit-learn",
    "safetensors",
    "nncf",
    "scipy",
    "pandas",
)
RUNTIMES = {"ort": "onnxruntime", "openvino": "openvino"}
GOAL_BYTES, GOAL_SECONDS = 150_000_000, 0.25


def environment() -> dict[str, str]:
    """Nothing of the environment that this runs in."""
    return {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def run(*command: str | Path) -> str:
    """What a program prints; ends this one where it fails."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=environment(), check=False
    )
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout


def sizes(site: Path) -> dict[str, int]:
    """Bytes of every installed package, the largest first: files that it lists, and the bytecode made of them."""
    found: dict[str, int] = {}
    for package in metadata.distributions(path=[str(site)]):
        files = {Path(str(file.locate())).resolve() for file in package.files or []}
        compiled = {
            code
            for file in files
            if file.suffix == ".py"
            for code in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc")
        }
        found[package.metadata["Name"]] = sum(file.stat().st_size for file in files | compiled if file.is_file())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def times(command: list[str | Path], runs: int) -> list[float]:
    """Seconds of whole processes, after one that is not counted."""
    run(*command)
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        run(*command)
        seconds.append(round(time.perf_counter() - began, 4))
    return seconds


def import_times(python: Path, modules: str, runs: int) -> list[float]:
    """Seconds that an import takes inside a fresh process."""
    code = f"import time; t = time.perf_counter(); import {modules}; print(time.perf_counter() - t)"
    run(python, "-c", code)
    return [round(float(run(python, "-c", code)), 4) for _ in range(runs)]


def measure(extra: str, runs: int, folder: Path) -> dict[str, Any]:
    """Install into `folder` and look."""
    packed = wheel.pack(folder)
    device = folder / "device"
    run("uv", "venv", "--quiet", "--python", sys.executable, device)
    python = device / "bin" / "python"
    run(
        "uv",
        "pip",
        "install",
        "--quiet",
        "--compile-bytecode",
        "--link-mode",
        "copy",
        "--python",
        python,
        f"{packed.path}[{extra}]",
    )
    site = next((device / "lib").glob("python3*/site-packages"))
    packages = sizes(site)
    total = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    bundle = make_bundle(folder / "bundle").path
    edgekit = device / "bin" / "edgekit"
    proofs = [
        p for p in json.loads(run(edgekit, "doctor", bundle, "--json"))["variants"] if p["runtime"] == RUNTIMES[extra]
    ]
    ours = "edgekit.bundle, edgekit.runtimes.predictor"
    seconds = {
        "import": import_times(python, ours, runs),
        "with runtime": import_times(python, f"{ours}, {RUNTIMES[extra]}", runs),
        "edgekit --help": times([edgekit, "--help"], runs),
        "edgekit --version": times([edgekit, "--version"], runs),
        "python -c pass": times([python, "-c", "pass"], runs),
    }
    return {
        "created": now(),
        "command": ["python", "benchmarks/device_install.py", *sys.argv[1:]],
        "machine": this_machine().model_dump(mode="json", exclude={"packages"}),
        "extra": extra,
        "runtime_version": proofs[0]["runtime_version"],
        "wheel_bytes": packed.path.stat().st_size,
        "installed_bytes": total,
        "of_these_bytecode_bytes": sum(path.stat().st_size for path in site.rglob("*.pyc")),
        "packages_bytes": packages,
        "training_stack": [name for name in packages if name.lower() in TRAINING],
        "golden": [
            {key: proof[key] for key in ("variant", "outcome", "max_abs_diff", "top1_agreement")} for proof in proofs
        ],
        "median_seconds": {name: round(median(values), 4) for name, values in seconds.items()},
        "seconds": seconds,
        "goals": {"installed_bytes": GOAL_BYTES, "import_seconds": GOAL_SECONDS},
    }


def main() -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", choices=sorted(RUNTIMES), default="ort")
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/device_install.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekit-device-") as folder:
        result = measure(options.extra, options.runs, Path(folder).resolve())
    write_json(options.output, result)
    for name, size in result["packages_bytes"].items():
        print(f"{size / 1e6:8.1f} MB  {name}")
    print(f"{result['installed_bytes'] / 1e6:8.1f} MB  altogether (goal: below {GOAL_BYTES / 1e6:.0f})")
    print(
        f"{result['of_these_bytecode_bytes'] / 1e6:8.1f} MB  of it bytecode, which installers make or leave to the first import"
    )
    for name, value in result["median_seconds"].items():
        print(f"{value:8.3f} s   {name}")
    proved = ", ".join(f"{proof['variant']} {proof['outcome']}" for proof in result["golden"])
    print(f"golden tensors: {proved}")
    print(f"training stack: {', '.join(result['training_stack']) or 'nothing of it'}; {options.output}")


if __name__ == "__main__":
    main()
