"""What a device has to take: the wheel with one runtime, installed into a fresh environment.

    python benchmarks/device_install.py [--extra litert] [--runs 21] [--output benchmarks/results/device_install.json]

Packs the wheel of this edgekit, makes virtual environments with nothing else in them, and installs the wheel with one extra: as an
installer chooses versions by itself (`newest`), and with the versions that docs/devices.md names for a device with little space (`small`).
In each of them:

- the size of every package as installed, without bytecode; then with the bytecode that Python keeps of what `edgekit doctor` imports;
  then with all of it compiled, as `pip install` does unless told `--no-compile`;
- what of the training stack can be imported (nothing may be), and the golden tensors of a small bundle, proved there by `edgekit doctor`.

Compiled, each in a fresh process and after one that is not counted, the times of

- `import`: what a program that predicts imports of edgekit (`edgekit.bundle`, `edgekit.runtimes.predictor`), without the runtime;
- `import to first prediction`: the same, opening the bundle, loading a model, and the answer for one image;
- `with runtime`: the same and the runtime itself, and that again where Python has no bytecode and must not keep any;
- `edgekit --help` and `edgekit --version`, whole processes, Python's own start among them;
- `python -c pass`, for comparison.

For aarch64 the wheels are only unpacked, and their sizes added up; benchmarks/aarch64.py runs them.

Needs uv, and [export] for the small bundle. The times are medians, and the file has all of them; on a busy machine only the CPU seconds mean
anything.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from aarch64 import PLATFORM  # beside this script
from edgekit.bench.remote import wheel
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.result import now
from small_models import make_bundle

TRAINING = (
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "onnx",
    "sklearn",
    "safetensors",
    "nncf",
    "scipy",
    "pandas",
)
# An extra's runtime, the module of it that a session imports, and what the bundle needs to hold for it.
BOTH = ("onnx", "openvino"), ("fp32", "fp16")  # targets and precisions
RUNTIMES = {
    "ort": ("onnxruntime", "onnxruntime", BOTH),
    "openvino": ("openvino", "openvino", BOTH),
    "litert": ("litert", "ai_edge_litert.interpreter", (("litert",), ("fp32", "int8"))),
}
# ONNX Runtime grows: 51 MB unpacked on x86-64 in 1.25, the first without SymPy (27 MB) beside it, and 76 MB in 1.32.
SMALL = {"ort": "onnxruntime==1.25.*"}
IMPORTABLE = "import importlib.util as u, json, sys; print(json.dumps([n for n in sys.argv[1:] if u.find_spec(n)]))"
FIRST = """
import time
began, spent = time.perf_counter(), time.process_time()
import sys
from PIL import Image
from edgekit.bundle import Bundle
from edgekit.runtimes.predictor import Predictor
predictor = Predictor(Bundle.open(sys.argv[1]), threads=1)
predictor.predict_image(Image.new("RGB", (50, 40)))
print(time.perf_counter() - began, time.process_time() - spent)
"""
OURS = "edgekit.bundle, edgekit.runtimes.predictor"
GOAL_BYTES, GOAL_SECONDS = 150_000_000, 0.25


def environment(bytecode: bool) -> dict[str, str]:
    """Nothing of the environment that this runs in; whether Python may keep bytecode."""
    ours = {"PYTHONPATH", "PYTHONPYCACHEPREFIX", "VIRTUAL_ENV", "UV_COMPILE_BYTECODE", "PYTHONDONTWRITEBYTECODE"}
    kept = {k: v for k, v in os.environ.items() if k not in ours}
    return kept if bytecode else kept | {"PYTHONDONTWRITEBYTECODE": "1"}


def run(*command: str | Path, bytecode: bool = True) -> str:
    """What a program prints; ends this one where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(bytecode), check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout


def total(site: Path, pattern: str = "*") -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in site.rglob(pattern) if path.is_file())


def sizes(site: Path) -> dict[str, int]:
    """Bytes of every installed package, the largest first: the files that it lists and that are there."""
    found = {}
    for package in metadata.distributions(path=[str(site)]):
        files = {Path(str(file.locate())).resolve() for file in package.files or []}
        found[package.metadata["Name"]] = sum(file.stat().st_size for file in files if file.is_file())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def install(folder: Path, *requirements: str) -> Path:
    """A virtual environment with these requirements and no bytecode; gives its Python."""
    run("uv", "venv", "--quiet", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    run("uv", "pip", "install", "--quiet", "--link-mode", "copy", "--python", python, *requirements)
    return python


def unpacked(folder: Path, platform: str, *requirements: str) -> dict[str, Any]:
    """The sizes of the wheels that another platform would get, for the Python version that this runs on."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    target = ["--target", folder, "--python-platform", platform, "--python-version", version]
    run("uv", "pip", "install", "--quiet", "--link-mode", "copy", "--only-binary", ":all:", *target, *requirements)
    packages = sizes(folder)
    return {"installed_bytes": total(folder), "packages_bytes": packages, "versions": versions(folder)}


def versions(site: Path) -> dict[str, str]:
    """Which versions were chosen."""
    return {package.metadata["Name"]: package.version for package in metadata.distributions(path=[str(site)])}


def proofs(python: Path, bundle: Path, runtime: str, *, bytecode: bool) -> list[dict[str, Any]]:
    """What `edgekit doctor` says there about the bundle's variants of a runtime."""
    found = json.loads(run(python.parent / "edgekit", "doctor", bundle, "--json", bytecode=bytecode))["variants"]
    told = ("variant", "outcome", "max_abs_diff", "agreement")
    return [{key: proof[key] for key in told} for proof in found if proof["runtime"] == runtime]


def look(python: Path, bundle: Path, extra: str, runs: int) -> dict[str, Any]:
    """Sizes without and with bytecode, golden tensors, and times; leaves everything compiled."""
    runtime, module, _ = RUNTIMES[extra]
    site = next((python.parents[1] / "lib").glob("python3*/site-packages"))
    edgekit = python.parent / "edgekit"
    packages = sizes(site)
    bare = total(site)
    golden = proofs(python, bundle, runtime, bytecode=False)
    seconds = {"with runtime, no bytecode": import_times(python, f"{OURS}, {module}", runs, bytecode=False)}
    if (kept := total(site) - bare) != 0:
        raise SystemExit(f"{kept} bytes were written although Python was told to keep no bytecode")
    proofs(python, bundle, runtime, bytecode=True)
    used = total(site, "*.pyc")
    run(python, "-m", "compileall", "-q", site)
    seconds |= {
        "import": import_times(python, OURS, runs),
        "with runtime": import_times(python, f"{OURS}, {module}", runs),
        "import to first prediction": predictions(python, bundle, runs),
        "edgekit --help": times([edgekit, "--help"], runs),
        "edgekit --version": times([edgekit, "--version"], runs),
        "python -c pass": times([python, "-c", "pass"], runs),
    }
    return {
        "versions": versions(site),
        "installed_bytes": bare,
        "bytecode_bytes": {"of what the doctor imports": used, "of everything": total(site, "*.pyc")},
        "packages_bytes": packages,
        "training_stack": json.loads(run(python, "-c", IMPORTABLE, *(name.replace("-", "_") for name in TRAINING))),
        "golden": golden,
        "median_seconds": {name: round(median(wall for wall, _ in samples), 4) for name, samples in seconds.items()},
        "median_cpu_seconds": {name: round(median(cpu for _, cpu in samples), 4) for name, samples in seconds.items()},
        "seconds_and_cpu_seconds": seconds,
    }


Samples = list[tuple[float, float]]  # seconds, and of them CPU seconds


def times(command: list[str | Path], runs: int) -> Samples:
    """Seconds of whole processes, after one that is not counted."""
    run(*command)
    found = []
    for _ in range(runs):
        began, spent = time.perf_counter(), _children()
        run(*command)
        found.append((round(time.perf_counter() - began, 4), round(_children() - spent, 4)))
    return found


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def import_times(python: Path, modules: str, runs: int, *, bytecode: bool = True) -> Samples:
    """Seconds that an import takes inside a fresh process, after one that is not counted."""
    code = f"import time as t; a, b = t.perf_counter(), t.process_time(); import {modules}; print(t.perf_counter() - a, t.process_time() - b)"
    return _printed([python, "-c", code], runs, bytecode)


def predictions(python: Path, bundle: Path, runs: int) -> Samples:
    """Seconds from the first import to the first answer, in a fresh process, after one that is not counted."""
    return _printed([python, "-c", FIRST, bundle], runs, True)


def _printed(command: list[str | Path], runs: int, bytecode: bool) -> Samples:
    run(*command, bytecode=bytecode)
    found = []
    for _ in range(runs):
        wall, cpu = run(*command, bytecode=bytecode).split()
        found.append((round(float(wall), 4), round(float(cpu), 4)))
    return found


def measure(extra: str, runs: int, folder: Path) -> dict[str, Any]:
    """Install into `folder` and look."""
    packed = wheel.pack(folder)
    ours = f"{packed.path}[{extra}]"
    wanted = {"newest": [ours]} | ({"small": [ours, SMALL[extra]]} if extra in SMALL else {})
    targets, precisions = RUNTIMES[extra][2]
    bundle = make_bundle(folder / "bundle", targets=targets, precisions=precisions).path
    installs, aarch64 = {}, {}
    for name, requirements in wanted.items():
        python = install(folder / name, *requirements)
        installs[name] = {"pinned": requirements[1:]} | look(python, bundle, extra, runs)
        aarch64[name] = unpacked(folder / f"aarch64-{name}", PLATFORM, *requirements)
    return {
        "created": now(),
        "command": ["python", "benchmarks/device_install.py", *sys.argv[1:]],
        "machine": this_machine().model_dump(mode="json", exclude={"packages"}),
        "extra": extra,
        "wheel_bytes": packed.path.stat().st_size,
        "installs": installs,
        "aarch64_unpacked": aarch64,
        "goals": {"installed_bytes": GOAL_BYTES, "import_seconds": GOAL_SECONDS},
    }


def show(name: str, found: dict[str, Any], aarch64: dict[str, Any]) -> None:
    """Print one installation."""
    print(f"\n{name}: {', '.join(found['pinned']) or 'what the installer chooses'}")
    for package, size in found["packages_bytes"].items():
        print(f"{size / 1e6:8.1f} MB  {package} {found['versions'][package]}")
    bare, bytecode = found["installed_bytes"], found["bytecode_bytes"]
    print(f"{bare / 1e6:8.1f} MB  altogether, without bytecode (goal: below {GOAL_BYTES / 1e6:.0f})")
    for what, size in bytecode.items():
        print(f"{(bare + size) / 1e6:8.1f} MB  with the bytecode {what} ({size / 1e6:.1f} MB)")
    print(f"{aarch64['installed_bytes'] / 1e6:8.1f} MB  the wheels of aarch64 unpacked, without bytecode")
    for what, value in found["median_seconds"].items():
        print(f"{value:8.3f} s   {what} ({found['median_cpu_seconds'][what]:.3f} s of a CPU)")
    proved = ", ".join(f"{proof['variant']} {proof['outcome']}" for proof in found["golden"])
    print(f"golden tensors: {proved}")
    print(f"training stack: {', '.join(found['training_stack']) or 'nothing of it'}")


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
    for name, found in result["installs"].items():
        show(name, found, result["aarch64_unpacked"][name])
    print(f"\n{options.output}")


if __name__ == "__main__":
    main()
