"""Disturb commands at each change that they make to the file system, and check what they leave and what they make afterwards.

python -m tests.kill --all                        # every change of every command, killed, torn, with a full disk, and with a faulty one
python -m tests.kill --points 20 --command export
python -m tests.kill --command train --case 0 --kind kill --at 117
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.kill.cases import CASES, KINDS, Case
from tests.kill.server import Server
from tests.kill.shim import compiled
from tests.kill.trials import Bench, Point, Trial


def main() -> int:
    """Run the trials; the exit code is 1 where one found a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__.split("\n")[0])
    parser.add_argument("--all", action="store_true", help="every change, instead of --points of them")
    parser.add_argument("--points", type=int, default=50, help="changes a case and kind (default 50)")
    parser.add_argument("--command", choices=sorted({case.command for case in CASES}), help="only this command")
    parser.add_argument("--case", type=int, help="only this one of the command's cases; the first is 0")
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    parser.add_argument("--at", type=int, help="only the change of this number, and say what the commands printed")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of points")
    parser.add_argument("--keep", type=Path, help="folder for the files, which are kept; otherwise a temporary one")
    parser.add_argument("--json", type=Path, help="also write what was found to this file")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="edgekit-kill-"))
    folder.mkdir(parents=True, exist_ok=True)
    cases = [case for case in CASES if options.command in (None, case.command)]
    cases = cases if options.case is None else [cases[options.case]]
    began = time.monotonic()
    server = Server(compiled("cc", folder), folder)
    rows = []
    try:
        for case in cases:
            rows += _one(case, server, folder, options)
    finally:
        server.close()
        if options.keep is None:
            shutil.rmtree(folder)
    faults = sum(row["faults"] for row in rows)
    print(f"{sum(row['trials'] for row in rows)} trials, {faults} with faults, in {time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(_record(options, rows), indent=1) + "\n")
    return 1 if faults else 0


def _one(case: Case, server: Server, folder: Path, options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    bench = Bench(case, server, folder / "case")
    for kind in KINDS if options.kind is None else [options.kind]:
        points = bench.points(kind, len(bench.changes) if options.all else options.points, options.seed)
        if options.at is not None:
            points = [Point(kind, options.at)]
        began, trials = time.monotonic(), []
        for i, point in enumerate(points):
            trials.append(bench.trial(point))
            _show(trials[-1], options.at is not None)
            if sys.stderr.isatty():
                print(f"\r{case.name}: {kind} {i + 1}/{len(points)} ", end="", file=sys.stderr, flush=True)
        bad = [trial for trial in trials if trial.faults]
        print(
            f"{case.name}: {kind}: {len(trials)} of {len(bench.changes)} changes, {len(bad)} with faults, "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
        yield {
            "command": case.command,
            "situation": case.situation,
            "kind": kind,
            "changes": len(bench.changes),
            "operations": Counter(change.operation for change in bench.changes),
            "trials": len(trials),
            "reached": sum(trial.at is not None for trial in trials),
            "exit_codes": {str(code): n for code, n in sorted(Counter(trial.code for trial in trials).items())},
            "faults": len(bad),
        }


def _show(trial: Trial, everything: bool) -> None:
    if trial.faults or everything:
        where = f"{trial.at.operation} {trial.at.path}" if trial.at else "not reached"
        print(
            f"--at {trial.point.n} --kind {trial.point.kind} ({trial.case.name}; {where}): exit {trial.code}: {trial.said}"
        )
    for fault in trial.faults:
        print(f"    {fault}", flush=True)


def _record(options: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    from edgekit.machine import this_machine
    from edgekit.result import now

    return {
        "created": now(),
        "command": ["python", "-m", "tests.kill", *sys.argv[1:]],
        "seed": options.seed,
        "machine": this_machine().model_dump(mode="json"),
        "results": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
