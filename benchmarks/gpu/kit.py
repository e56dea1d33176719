"""The GPU kit: what edgekit does on a CUDA GPU, in eight minutes, with one result file a part.

    python benchmarks/gpu/kit.py --rehearse                      every part on the CPU, in small
    python benchmarks/gpu/kit.py --prepare FOLDER --cifar10 DIR  collect what a machine without a network lacks, in parts
    python benchmarks/gpu/kit.py --unpack FOLDER                 there: assemble the parts that have arrived
    python benchmarks/gpu/kit.py                                 there: run

Parts: correctness, speed, runtimes, promise (see README.md beside this file). Each runs in a process of its own, so that a GPU error or a
hang ends one part; each writes PART.json under --output (default $OUT, else benchmarks/results/gpu) after every check. What no longer fits
into --budget-seconds is skipped, and the results say so.

Exit code: 0 where every check passed, was measured or, with the reason, cannot run here; 1 where one failed or broke; 2 for bad usage; 3
where nothing failed, but a part was skipped or cut off for time.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CARRIED = ROOT / "build" / "gpu"  # ignored by git
# Seconds that each part may take, in the order in which they run. The promise comes last and takes what is left: it adapts to it.
LIMITS = {"correctness": 60.0, "speed": 60.0, "runtimes": 60.0, "promise": 300.0}
LEAST = 15.0  # seconds; a part is not started with less
GRACE = 20.0  # seconds: after its limit a part begins no further check, and this much later it is ended
REHEARSAL = 3600.0


def paths(carried: Path) -> None:
    """Make this checkout importable, and what was carried (only what is not installed here, or older)."""
    sys.path[:0] = [str(ROOT / "src"), str(carried / "site")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, in small, without a limit of time")
    parser.add_argument("--budget-seconds", type=float, default=480.0)
    parser.add_argument("--only", default="", help=f"parts, separated by commas: {','.join(LIMITS)}")
    parser.add_argument("--output", type=Path, help="folder of the result files")
    parser.add_argument("--carried", type=Path, default=CARRIED, help="folder of what was unpacked")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="collect what must be carried, in parts")
    parser.add_argument(
        "--cifar10",
        type=Path,
        metavar="DIR",
        help="with --prepare: the PNG sheets and their labels, or train/ and test/",
    )
    parser.add_argument("--part-mib", type=float, default=56.0, help="with --prepare: largest part")
    parser.add_argument("--python", default="3.12", help="with --prepare: the Python of the machine it is for")
    parser.add_argument(
        "--rtx", action="store_true", help="with --prepare: TensorRT for RTX and engines, about 115 MiB more"
    )
    parser.add_argument("--unpack", type=Path, metavar="FOLDER", help="assemble the parts that have arrived")
    parser.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(LIMITS)
    if unknown := [name for name in chosen if name not in LIMITS]:
        parser.error(f"--only: no part {', '.join(unknown)}; there are {', '.join(LIMITS)}")
    if options.budget_seconds <= 0:
        parser.error("--budget-seconds must be greater than 0")
    options.output = options.output or Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results" / "gpu")
    paths(options.carried)
    if options.prepare or options.unpack:
        import carry

        return carry.main(options)
    if options.part:
        return child(options)
    return parent(options, chosen)


def child(options: Any) -> int:
    """One part, in this process; 1 where a check failed."""
    import record

    told = record.Options(options.output, options.carried, options.deadline, options.rehearse)
    part = record.Record(options.part, told)
    part.write(complete=False)
    importlib.import_module(options.part).run(part)
    part.write(complete=True)
    return 0


def parent(options: Any, chosen: list[str]) -> int:
    """Every part in turn, each with its share of the time; the summary, and the exit code."""
    if missing := [
        name for name in ("torch", "pydantic", "lightning", "timm", "safetensors") if not importlib.util.find_spec(name)
    ]:
        print(
            f"error: not installed here: {', '.join(missing)} (carry them: see --prepare and --unpack)", file=sys.stderr
        )
        return 2
    if not options.rehearse:
        import torch

        if not torch.cuda.is_available():
            print("error: PyTorch finds no CUDA GPU here (--rehearse runs every part on the CPU)", file=sys.stderr)
            return 2
    end = time.time() + (REHEARSAL if options.rehearse else options.budget_seconds)
    if not options.rehearse:  # read from the disk once, so that the first part's time is not spent on it
        for heavy in ("lightning.pytorch", "timm"):
            importlib.import_module(heavy)
    options.output.mkdir(parents=True, exist_ok=True)
    summary = []
    for name in chosen:
        left = end - time.time() - 2
        limit = left if options.rehearse else min(LIMITS[name], left)
        print(f"{name}: {left:.0f} s are left", flush=True)
        summary.append(
            {
                "part": name,
                **(run_part(name, limit, min(limit + GRACE, left), options) if limit >= LEAST else skipped(left)),
            }
        )
        # The summary is a file, too: the last one to be written is of the last part that ran.
        (options.output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return show(summary)


def skipped(left: float) -> dict[str, Any]:
    return {
        "outcome": "skipped",
        "why": f"{max(0.0, left):.0f} s were left, a part is not started with less than {LEAST:.0f}",
    }


def run_part(name: str, limit: float, end: float, options: Any) -> dict[str, Any]:
    """A part in a process group of its own: `limit` seconds to begin checks, ended with everything in it after `end` seconds."""
    result = options.output / f"{name}.json"
    result.unlink(missing_ok=True)
    command = [
        sys.executable, str(HERE / "kit.py"), "--part", name, "--deadline", str(time.time() + limit - 2), "--output", str(options.output),
        "--carried", str(options.carried), *(["--rehearse"] if options.rehearse else []),
    ]  # fmt: skip
    began = time.time()
    log = options.output / f"{name}.log"
    cut = False
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream, start_new_session=True)
        try:
            process.wait(end)
        except subprocess.TimeoutExpired:
            cut = True
        finally:  # also on Ctrl-C: nothing of it stays behind
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found: dict[str, Any] = {"seconds": round(time.time() - began, 1)}
    try:
        checks = json.loads(result.read_text())["checks"]
    except (OSError, ValueError, KeyError):
        checks = []
    for check in checks:
        found[check["outcome"]] = found.get(check["outcome"], 0) + 1
    if cut:
        return {
            **found,
            "outcome": "cut off",
            "why": f"not finished after {end:.0f} s; what was measured until then is in {result.name}",
        }
    if process.returncode:
        tail = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
        return {**found, "outcome": "error", "why": f"ended with {process.returncode}: {tail}"[:600]}
    failed = found.get("failed", 0) + found.get("error", 0)
    return {**found, "outcome": "failed" if failed else "skipped checks" if found.get("skipped") else "passed"}


def show(summary: list[dict[str, Any]]) -> int:
    for entry in summary:
        counts = ", ".join(f"{value} {key}" for key, value in entry.items() if isinstance(value, int))
        print(
            f"{entry['part']:<12} {entry['outcome']:<14} {entry.get('seconds', 0):6.1f} s  {counts}  {entry.get('why', '')}".rstrip()
        )
    outcomes = {entry["outcome"] for entry in summary}
    if outcomes & {"failed", "error"}:
        return 1
    return 3 if outcomes & {"skipped", "cut off", "skipped checks"} else 0


if __name__ == "__main__":
    sys.exit(main())
