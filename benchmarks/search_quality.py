"""What `edgekit search` costs, and whether it chooses right: for this machine, and for the same machine over SSH.

    python benchmarks/search_quality.py --data CIFAR10 [--work DIR] [--device ssh://user@host] [--budget "p50 < 0.4 ms"]

CIFAR10 holds train/ and test/ with one folder a class; 120 images of each class of train/ and 100 of test/ are linked into --work. The curated
list at 16 pixels (more than 30 students fit) is searched for this machine and, over SSH, for --device: without one, an OpenSSH server of this
user is started on a loopback address. Then five neighbors on the front are trained in full, and their test accuracies are held against the
scores of the short rounds (Spearman's rank correlation). Written to results/search_quality.json.

Interrupted, it goes on where it was. On one core: `taskset -c 0 env OMP_NUM_THREADS=1 python …`.
"""

from __future__ import annotations

import argparse
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from edgekit.data.splits import load_splits
from edgekit.files import write_json, write_text
from edgekit.machine import this_machine
from edgekit.recipe import load, read_yaml
from edgekit.report.search import pareto, points, rounds_of
from edgekit.result import Result, Search, now
from edgekit.run import Run
from edgekit.search.candidates import chosen_candidates
from edgekit.search.rounds import Training
from edgekit.train.stages.pipeline import train

TRAIN, TEST = 120, 100  # images of each class
NEIGHBORS = 5
RECIPE = """\
# Written by benchmarks/search_quality.py
name: search
data:
  labeled: {folder}/train
  test: {folder}/test
  probe: 0.3
  labels: 40  # per class
  image_size: 16
pretrain:
  encoder: {{name: resnet10, width: 0.5}}
  epochs: 10
  batch_size: 128
finetune:
  epochs: 20
distill:
  student: {{name: resnet10, width: 0.25}}
  epochs: 9
  batch_size: 64
  labeled_weight: 0.2
  optimizer: {{name: adamw, lr: 0.002, scale_lr: false, weight_decay: 0.01}}
supervised: {{enabled: false}}
monitor: {{every: 0}}
hardware: {{accelerator: cpu, threads: 1}}
"""


def subset(data: Path, folder: Path) -> None:
    """Link the first images of each class."""
    for split, count in (("train", TRAIN), ("test", TEST)):
        for source in sorted(path for path in (data / split).iterdir() if path.is_dir()):
            target = folder / split / source.name
            target.mkdir(parents=True, exist_ok=True)
            for image in sorted(source.iterdir())[:count]:
                if not (target / image.name).exists():
                    (target / image.name).symlink_to(image.resolve())


@contextmanager
def loopback(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Start an OpenSSH server on a loopback address; yield its address and the environment in which `ssh` knows it."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if sshd is None:
        raise SystemExit("there is no sshd here: give --device ssh://user@host")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("host", "user"):
        if not (folder / name).exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    port_file = folder / "port"  # the same after an interruption: it is a part of the device's name
    if not port_file.exists():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port_file.write_text(str(probe.getsockname()[1]))
    port = port_file.read_text()
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    variables = f'"EDGEKIT_CACHE={folder}/cache" "OMP_NUM_THREADS=1" "PYTHONPATH={os.environ.get("PYTHONPATH", "")}"'
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\nPidFile none\n"
        f"UsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nSetEnv {variables}\n"
    )
    (folder / "config").write_text(
        f"IdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\nGlobalKnownHostsFile none\n"
    )
    client = folder / "ssh"
    client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    client.chmod(0o755)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                    break
            time.sleep(0.1)
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}", {"PATH": f"{folder}:{os.environ['PATH']}"}
    finally:
        server.terminate()
        server.wait()


def search(work: Path, options: list[str], environment: dict[str, str], name: str) -> Search:
    """Run the command; its result is kept under a name."""
    kept = work / f"{name}.json"
    if not kept.exists():
        command = [
            sys.executable,
            "-m",
            "edgekit",
            "search",
            str(work / "recipe.yaml"),
            "--run",
            str(work / "search"),
            *options,
        ]
        subprocess.run(command, check=True, env={**os.environ, **environment})
        for suffix in ("json", "html"):
            shutil.copy(work / "search" / f"search.{suffix}", work / f"{name}.{suffix}.part")
            os.replace(work / f"{name}.{suffix}.part", work / f"{name}.{suffix}")
    found = Result.read(kept).measurement
    assert isinstance(found, Search)
    return found


def neighbors(found: Search) -> list[str]:
    """The winner and those beside it on the front of the first round, by latency; next to the front where that has too few."""
    first = points(found, rounds_of(found)[0])
    front = [p.name for p in pareto(first)]
    rest = [p.name for p in sorted(first, key=lambda p: -p.score) if p.name not in front]
    listed = [*front, *rest]
    winner = found.winner or front[0]
    at = {p.name: p.latency for p in first}
    nearest = sorted(front, key=lambda name: abs(at[name] - at[winner]))[:NEIGHBORS]
    return [*nearest, *[name for name in listed if name not in nearest]][:NEIGHBORS]


def train_fully(work: Path, found: Search, names: list[str]) -> list[dict[str, Any]]:
    """Train candidates in full, with the search's teacher."""
    recipe = load(work / "recipe.yaml")
    splits = load_splits(recipe.data)
    training = Training(recipe, work / "search", lambda size: splits)
    by_name = {candidate.name: candidate for candidate in chosen_candidates(recipe)}
    rows = []
    for name in names:
        candidate, listed = by_name[name], found.candidate(name)
        assert listed is not None
        own = candidate.in_recipe(recipe)
        run = Run(work / "search" / "full" / name)
        train(own, run, reuse=[training.teacher_run(candidate.image_size)], splits=splits, until="distill")
        record = run.require("distill")
        right, images = training.score(candidate, run.stage_path("distill"), record.outputs)
        variant = listed.fitting()
        rows.append({
            "candidate": name,
            "p50_ms": variant.p50 if variant else None,
            "scores": {str(r.epochs): r.score for r in listed.rounds},
            "full_score": right / images,
            "test_top1": record.metrics["test_top1"],
            "test_images": len(splits.test),
            "seconds": record.seconds,
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def summary(found: Search) -> dict[str, Any]:
    won = found.won()
    first = rounds_of(found)[0]
    return {
        "device": found.device,
        "budgets": found.budgets,
        "candidates": len(found.candidates),
        "measured": sum(any(v.p50 is not None for v in c.variants) for c in found.candidates),
        "within_the_budget": sum(c.fitting() is not None for c in found.candidates),
        "minutes": {phase: round(seconds / 60, 2) for phase, seconds in found.seconds.items()},
        "front": [
            {"candidate": p.name, "p50_ms": p.latency, "score": p.score, "bytes": p.bytes}
            for p in pareto(points(found, first))
        ],
        "winner": found.winner,
        "winner_variants": [v.model_dump(mode="json") for v in won.variants] if won else [],
        "left_out": {c.name: c.left_out for c in found.candidates if c.left_out},
    }


def correlations(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Spearman's rank correlation of the first round's scores with the accuracies of the full trainings."""
    first = min((int(e) for row in rows for e in row["scores"]), default=0)
    pairs = [
        (row["scores"][str(first)], row["full_score"], row["test_top1"]) for row in rows if str(first) in row["scores"]
    ]
    short, score, top1 = zip(*pairs, strict=True)
    return {
        "epochs": first,
        "with_test_top1": float(spearmanr(short, top1).statistic),
        "with_score": float(spearmanr(short, score).statistic),
        "candidates": len(pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/search_quality"))
    parser.add_argument("--device", help="ssh://user@host  [default: a loopback server]")
    parser.add_argument("--budget", default="p50 < 0.4 ms")
    parser.add_argument("--seconds", default="0.3", help="of one turn of measuring")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "search_quality.json")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    subset(arguments.data, work / "images")
    write_text(work / "recipe.yaml", RECIPE.format(folder=work / "images"))
    assert read_yaml((work / "recipe.yaml").read_text())
    options = [
        "--budget",
        arguments.budget,
        "--target",
        "onnx",
        "--precision",
        "fp32",
        "--threads",
        "1",
        "--seconds",
        arguments.seconds,
    ]
    options += ["--max-drop", "100"]
    here = search(work, options, {}, "here")
    if arguments.device:
        there = search(work, [*options, "--device", arguments.device], {}, "device")
    else:
        with loopback(work / "sshd") as (url, environment):
            there = search(work, [*options, "--device", url, "--python", sys.executable], environment, "device")
    rows = train_fully(work, here, neighbors(here))
    content = {
        "created": now(),
        "machine": this_machine().model_dump(),
        "protocol": f"CIFAR-10 at 16 px, {TRAIN} training and {TEST} test images per class; onnx-fp32, one thread; neighbors on the front of "
        "the first round trained in full",
        "here": summary(here),
        "over_ssh": summary(there),
        "trained_in_full": rows,
        "spearman": correlations(rows),
    }
    write_json(arguments.output, content)
    print(f"written to {arguments.output}: Spearman {content['spearman']}")


if __name__ == "__main__":
    main()
