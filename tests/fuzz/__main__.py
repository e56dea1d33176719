"""`python -m tests.fuzz`: the fuzzer at length; see the package's docstring."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from .driver import HANG_SECONDS, ROOT, Tally, fuzz
from .worker import FORMATS, load

_PACKAGES = ("numpy", "pillow", "pydantic", "pyyaml", "torch", "safetensors", "lightning", "onnxruntime", "openvino")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Damaged and forged files for every command that reads some."
    )
    parser.add_argument(
        "--format", action="append", choices=FORMATS, dest="formats", help="only this one; may be repeated"
    )
    parser.add_argument("--minutes", type=float, help="for all formats together")
    parser.add_argument("--cases", type=int, help="of each format  [default: 1000 without --minutes]")
    parser.add_argument("--case", type=int, help="run this one alone and show what became of it")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", default="0", help="[default: 0]")
    parser.add_argument(
        "--folder",
        type=Path,
        help="keeps the corpus, and the inputs of findings in findings/  [default: a temporary one]",
    )
    parser.add_argument("--output", type=Path, help="write the figures, the machine and the versions into this file")
    parser.add_argument("--json", action="store_true", help="print them")
    arguments = parser.parse_args()
    formats = arguments.formats or list(FORMATS)
    cases = arguments.cases or (None if arguments.minutes else 1000)
    first = arguments.first
    if arguments.case is not None:
        first, cases = arguments.case, 1
    seconds = arguments.minutes * 60 / len(formats) if arguments.minutes else None
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="edgekit-fuzz."))
    tallies = []
    for kind in formats:
        tallies.append(
            fuzz(
                kind,
                folder,
                seed=arguments.seed,
                first=first,
                cases=cases,
                seconds=seconds,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
        )
        _show(tallies[-1], arguments.case is not None)
    content = _content(tallies)
    if arguments.output:
        arguments.output.write_text(json.dumps(content, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(content, indent=1))
    if any(not tally.clean for tally in tallies):
        print(f"the inputs of the findings are in {folder}/findings", file=sys.stderr)
        return 1
    return 0


def _show(tally: Tally, whole: bool) -> None:
    print(
        f"{tally.format}: {tally.cases} cases in {tally.seconds:.0f} s, {tally.accepted} accepted, {tally.refused} refused, "
        f"{tally.uncaught} uncaught, "
        f"{tally.hangs} hangs, {tally.crashes} crashes, {tally.over_memory} over the bound of memory; peak {tally.peak_bytes >> 20} MiB, "
        f"slowest {tally.slowest_seconds:.1f} s",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    for where, found in tally.findings.items():
        print(f"  {found['count']} x {where} (cases {', '.join(map(str, found['cases']))})", file=sys.stderr)
        if whole:
            print(found["detail"], file=sys.stderr)


def _content(tallies: list[Tally]) -> dict[str, Any]:
    return {
        "command": ["python", "-m", "tests.fuzz", *sys.argv[1:]],
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform(terse=True), "python": platform.python_version()},
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "commit": _commit(),
        "hang_seconds": HANG_SECONDS,
        "formats": [
            {**dataclasses.asdict(tally), "memory_bound_bytes": load(tally.format).MEMORY} for tally in tallies
        ],
    }  # fmt: skip


def _cpu() -> str:
    from edgekit.machine import this_machine

    return this_machine().cpu


def _commit() -> str:
    import subprocess

    found = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
