"""The table of mobile runtimes: networks × ONNX Runtime, OpenVINO, LiteRT, ExecuTorch × float and INT8, and the official LiteRT converter.

    python benchmarks/mobile_table.py --work FOLDER [--only resnet18] [--peer PEER/bin/python]
        [--trained cifar10_resnet=RUN --data CIFAR10] [--output …]

    uv venv PEER --python 3.11 && uv pip install --python PEER/bin/python litert-torch litert-quantizer timm safetensors pyyaml

The networks are those of `mobile_networks.py`, with seeded weights that look trained, and the students of trained runs (`--trained`, judged
on `TESTED` labeled test images). Every file is made as `edgekit export` makes it, by the same code, from `CALIBRATION` unlabeled images: trained
networks with `--max-drop 1` and the accuracy search, at most `MINUTES` a file, the others with `--max-drop 100`, since random weights are no
measure of a loss. `cpu_seconds` and `wall_seconds` count the float graph, every file that the search made, and their verification; the former also
the imports. The peer's are counted likewise, without a verification.

Each file is then compared with PyTorch on images that nothing was calibrated with: `sqnr_db` of the logits, the share of the same decisions
(`agreement`), and with labels the `drop` in percentage points.

`p50_ms` is wall-clock time and `cpu_ms` CPU time of the process, medians of single runs, one image, one thread. The files of a network take turns
in one process, in random order, `--rounds` times; sessions are opened again every `FRESH` rounds. `ratio` is the median over the rounds of
the file's CPU time over that of ONNX Runtime's float file in the same round, with its 95 % interval: on a busy machine it means more than
milliseconds. The same of `against_official`: edgekit's LiteRT file over the official one.

Every step leaves its result in FOLDER; a second call goes on with those that are missing, so several calls can share the work of a network.

The result file is merged, not replaced: rows of other networks stay, and of the same network the files that this call does not make. `calls` says
when, how and where the rows, and such files, were measured; each names its own. So one target can be added later: `--only vit_tiny --targets onnx
executorch --keep onnx` (a ratio needs ONNX Runtime's float file in the same rounds). `load` is the machine's load average of five minutes when the
files were timed; on a busy machine CPU seconds are more, too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from edgekit import targets
from edgekit.files import digest_of
from edgekit.machine import this_machine
from edgekit.result import now
from mobile_measure import ROUNDS, compare, measure
from mobile_networks import CALIBRATION, TESTED, UNTRAINED, Network, network, write_arrays, write_weights
from result_files import write_rows

TARGETS = ("onnx", "openvino", "litert", "executorch")
PRECISIONS = ("fp32", "int8")
MINUTES = 4.0


def prepare(entry: Network, folder: Path, data: Path | None) -> dict[str, Any]:
    """Weights, images, and the network's own logits."""
    import numpy as np
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(entry, folder, data)
    write_weights(entry, folder / "weights.pt", np.load(folder / "calibration.npy"))
    model, images = network(entry, folder / "weights.pt"), np.load(folder / "evaluation.npy")
    with torch.no_grad():
        logits = np.concatenate(
            [model(torch.from_numpy(images[i : i + 50])).numpy() for i in range(0, len(images), 50)]
        )
    np.save(folder / "logits.npy", logits)
    labels = folder / "labels.npy"
    return {"accuracy": float((logits.argmax(1) == np.load(labels)).mean())} if labels.exists() else {}


def make(entry: Network, folder: Path, target: str) -> dict[str, Any]:
    """Export the files of a target, each as a bundle of its own; the imports count for each of them."""
    import numpy as np

    from edgekit.export.pipeline import ExportOptions, export_classifier
    from edgekit.preprocess import Preprocessing
    from export_sweep import CLASSES

    labels = folder / "labels.npy"
    evaluation = (np.load(folder / "evaluation.npy"), np.load(labels)) if labels.exists() else None
    model = network(entry, folder / "weights.pt")
    found = {}
    for precision in PRECISIONS:
        began, spent = time.monotonic(), cpu_seconds()
        name = f"{target}-{precision}"
        bundle = export_classifier(
            model,
            classes=[f"class {i}" for i in range(CLASSES)],
            preprocessing=Preprocessing(image_size=entry.size, resize_to=entry.size),
            calibration=np.load(folder / "calibration.npy"),
            evaluation=evaluation,
            output=folder / name,
            targets=[target],
            precisions=[precision],
            timed=False,
            jobs=1,
            options=ExportOptions(max_drop=1.0 if entry.run else 100.0, search_minutes=MINUTES),
        )
        variant = bundle.variant(name)
        searched = variant.quantization
        found[name] = {
            "status": variant.status,
            "runtime": variant.runtime,
            "file": f"{name}/{variant.files[0].path}",
            "bytes": sum(file.bytes for file in variant.files),
            "settings": variant.settings,
            "wall_seconds": time.monotonic() - began,
            "cpu_seconds": imports() + cpu_seconds() - spent,
            **({"strategy": searched.strategy, "files_made": len(searched.tried)} if searched is not None else {}),
            "note": variant.note[:160],
        }
    return found


@cache
def imports() -> float:
    """CPU seconds of the imports that an export needs; to be called before anything else."""
    import edgekit.export.litert.maker
    import edgekit.export.pipeline
    import edgekit.models.classifier  # noqa: F401

    return cpu_seconds()


def cpu_seconds() -> float:
    """CPU seconds of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def described(run: Path) -> str:
    """The student of a run, and its share of labels."""
    from edgekit.recipe import Recipe

    student = json.loads((run / "distill" / "model.json").read_text())["architecture"]
    width = student.get("width", 1.0)
    name = student["name"].removeprefix("timm:") + ("" if width == 1 else f" ×{width:g}")
    return f"{name}, {100 * Recipe.read(run / 'recipe.yaml').data.labels:g} % of the labels"


class Steps:
    """The steps of one network, each with a file of what it found."""

    def __init__(self, name: str, entry: Network, arguments: argparse.Namespace) -> None:
        self.name, self.entry, self.arguments = name, entry, arguments
        self.folder: Path = arguments.work / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def step(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a step found, now or earlier; of one that failed only why."""
        kept = self.folder / f"{name}.step.json"
        if kept.exists():
            return dict(json.loads(kept.read_text()))
        try:
            found = work()
        except Exception as error:  # the other files of the network are still worth their rows
            print(f"{self.name}: {name} FAILED: {type(error).__name__}: {error}", flush=True)
            return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        kept.write_text(json.dumps(found))
        print(f"{self.name}: {name} {kept.read_text()[:180]}", flush=True)
        return found

    def official(self) -> dict[str, Any]:
        """Make the peer's files, in its environment."""
        script = Path(__file__).with_name("mobile_official.py")
        done = subprocess.run(
            [self.arguments.peer, str(script), str(self.folder), json.dumps(asdict(self.entry))],
            capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr[-200:])
        found = {}
        for name, spent in json.loads(done.stdout.splitlines()[-1]).items():
            path = self.folder / f"official-{name}.tflite"
            facts = {"runtime": "official", "file": path.name, "settings": {}, "bytes": path.stat().st_size}
            found[f"official-{name}"] = facts | spent
        return found

    def run(self) -> dict[str, Any]:
        """All steps."""
        arguments, folder = self.arguments, self.folder
        row: dict[str, Any] = asdict(self.entry) | self.step(
            "prepare", lambda: prepare(self.entry, folder, arguments.data)
        )
        made: dict[str, Any] = {}
        for target in (name for name in arguments.targets if name in targets.every()):
            found = self.step(f"make-{target}", lambda target=target: make(self.entry, folder, target))  # type: ignore[misc]
            made |= found if "failed" not in found else {target: found}
        if arguments.peer:
            found = self.step("official", self.official)
            made |= found if "failed" not in found else {"official": found}
        ready = {name: entry for name, entry in made.items() if isinstance(entry, dict) and "file" in entry}
        digest = digest_of(ready)[:8]  # with another file, all are measured again
        known = self.step(f"compare-{digest}", lambda: compare(folder, ready))
        timed = (
            {}
            if arguments.untimed
            else self.step(
                f"measure-{digest}", lambda: {**measure(folder, ready, arguments.rounds), "load": os.getloadavg()[1]}
            )
        )
        left_out = {"runtime", "settings", "file"}
        if "load" in timed:
            row["load"] = timed["load"]
        if self.entry.run:
            row |= {"name": described(Path(self.entry.run)), "run": "RUN"}
        row["files"] = {
            name: {k: v for k, v in entry.items() if k not in left_out} | known.get(name, {}) | timed.get(name, {})
            for name, entry in made.items()
        }
        return row


HOW = ("created", "command", "machine", "images", "rounds", "import_cpu_seconds")  # of a call


def merged(earlier: dict[str, Any], call: dict[str, Any], name: str, row: dict[str, Any]) -> dict[str, Any]:
    """A result file after a call.

    Args:
        earlier: the file's content, or {}; of a file without `calls`, what it says of all rows is its first call. What else it says, stays.
        call: how the row was measured: when, by which command, on which machine.
        name: of the network.
        row: what was measured of it. Files that only its earlier row has stay in it.
    """
    calls = [*earlier.get("calls", [{key: earlier[key] for key in HOW if key in earlier}]), call]
    networks = {other: {"call": 0, **old} for other, old in earlier.get("networks", {}).items()}
    old = networks.get(name, {"call": 0, "files": {}})
    older = {file: {"call": old["call"], **entry} for file, entry in old["files"].items() if file not in row["files"]}
    networks[name] = {**row, "call": len(calls) - 1, "files": {**row["files"], **older}}
    places = [*networks.values(), *(entry for other in networks.values() for entry in other["files"].values())]
    used = sorted({place["call"] for place in places if "call" in place})
    for place in places:
        if "call" in place:
            place["call"] = used.index(place["call"])
    stays = {key: value for key, value in earlier.items() if key not in {*HOW, "calls", "networks"}}
    return {**stays, "calls": [calls[i] for i in used], "networks": networks}


def shown(arguments: argparse.Namespace) -> list[str]:
    """The command, with names in the place of this machine's folders."""
    names = {str(arguments.work): "WORK", arguments.peer: "PEER/bin/python", str(arguments.data): "CIFAR10"}
    words = [names.get(word, word) for word in sys.argv[1:]]
    if "--output" in words:
        del words[words.index("--output") :][:2]
    return ["python", "benchmarks/mobile_table.py", *(f"{w.split('=')[0]}=RUN" if "=" in w else w for w in words)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="keeps the files and what each step found")
    parser.add_argument("--only", nargs="+", default=[], help="names of networks")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), help="of edgekit")
    parser.add_argument(
        "--keep",
        nargs="+",
        default=[],
        help="targets that this call needs for its ratios alone: their earlier files stay",
    )
    parser.add_argument(
        "--peer", default="", help="the Python of an environment with litert-torch and litert-quantizer"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--untimed", action="store_true", help="leave the times to a later call, on a quiet machine")
    parser.add_argument(
        "--trained", nargs="+", default=[], metavar="NAME=RUN", help="runs whose students are in the table too"
    )
    parser.add_argument("--data", type=Path, help=f"train and test folders of the runs; {TESTED} test images are used")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "mobile_table.json")
    arguments = parser.parse_args()
    imports()
    runs = dict(word.split("=", 1) for word in arguments.trained)
    entries = {**UNTRAINED, **{name: Network("trained", 32, run=run) for name, run in runs.items()}}
    output: Path = arguments.output
    for name, entry in entries.items():
        if arguments.only and name not in arguments.only:
            continue
        row = Steps(name, entry, arguments).run()
        row["files"] = {file: e for file, e in row["files"].items() if file.split("-")[0] not in arguments.keep}
        call = {
            "created": now(),
            "command": shown(arguments),
            "machine": this_machine().model_dump(),
            "images": {"calibration": CALIBRATION, "seed": 0},
            "rounds": arguments.rounds,
            "import_cpu_seconds": imports(),
        }
        earlier = json.loads(output.read_text()) if output.exists() else {}  # also of calls that ran meanwhile
        write_rows(output, merged(earlier, call, name, row))


if __name__ == "__main__":
    main()
