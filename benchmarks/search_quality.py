"""What `edgekit search` costs, and whether it chooses right.

    python benchmarks/search_quality.py cost --data CIFAR10 [--device ssh://user@host] [--budget "p50 < 0.4 ms"]
    python benchmarks/search_quality.py choice --data FASHION_MNIST

The data folder holds train/ and test/ with one folder a class, from which a few images of each class are linked into --work.

cost: the curated list at 16 pixels (more than 30 students fit) is searched for this machine and, over SSH, for --device: without one, an
OpenSSH server of this user is started on a loopback address.

choice: nine students of different capacity are distilled with several seeds in short rounds of each length
and in full. How well do the short rounds rank them (Spearman's rank correlation, with a bootstrap interval over students and seeds), and how
far behind the best is the student that successive halving chooses? Several processes may run this on one --work: each training is done once.

Written to results/search_quality.json, `choice` under that name. Interrupted, it goes on where it was. On one core:
`taskset -c 0 env OMP_NUM_THREADS=1 python …`.
"""

from __future__ import annotations

import argparse
import getpass
import json
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

import search_choice
from edgekit.files import write_text
from edgekit.machine import this_machine
from edgekit.recipe import read_yaml
from edgekit.report.search import pareto, points, rounds_of
from edgekit.result import Result, Search, now
from result_files import write_rows

TRAIN, TEST = 120, 100  # images of each class
_HEAD = """\
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
"""
RECIPE = _HEAD + search_choice.TRAINING


def subset(data: Path, folder: Path, train: int, test: int) -> None:
    """Link the first images of each class."""
    for split, count in (("train", train), ("test", test)):
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


def cost(work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Search the curated list here and over SSH."""
    write_text(work / "recipe.yaml", RECIPE.format(folder=work / "images"))
    assert read_yaml((work / "recipe.yaml").read_text())
    options = ["--budget", arguments.budget, "--target", "onnx", "--precision", "fp32", "--threads", "1"]
    options += ["--seconds", arguments.seconds, "--max-drop", "100"]
    here = search(work, options, {}, "here")
    if arguments.device:
        there = search(work, [*options, "--device", arguments.device], {}, "device")
    else:
        with loopback(work / "sshd") as (url, environment):
            there = search(work, [*options, "--device", url, "--python", sys.executable], environment, "device")
    return {
        "protocol": f"CIFAR-10 at 16 px, {TRAIN} training and {TEST} test images per class; onnx-fp32, one thread",
        "here": summary(here),
        "over_ssh": summary(there),
    }


def choice(work: Path) -> dict[str, Any]:
    """Compare short rounds with full trainings."""
    write_text(work / "recipe.yaml", search_choice.RECIPE.format(folder=work / "images"))
    return {
        "protocol": f"Fashion-MNIST at 16 px, {search_choice.TRAIN} training and {search_choice.TEST} test images per class; students distilled "
        f"for {', '.join(map(str, search_choice.LENGTHS))} and {search_choice.FULL} epochs",
        **search_choice.report(*search_choice.train_all(work)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("cost", "choice"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="[default: runs/search_PART]")
    parser.add_argument("--device", help="ssh://user@host  [default: a loopback server]")
    parser.add_argument("--budget", default="p50 < 0.4 ms")
    parser.add_argument("--seconds", default="0.3", help="of one turn of measuring")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "search_quality.json")
    arguments = parser.parse_args()
    work = (arguments.work or Path("runs") / f"search_{arguments.part}").resolve()
    work.mkdir(parents=True, exist_ok=True)
    counts = (TRAIN, TEST) if arguments.part == "cost" else (search_choice.TRAIN, search_choice.TEST)
    subset(arguments.data, work / "images", *counts)
    measured = cost(work, arguments) if arguments.part == "cost" else choice(work)
    command = f"python benchmarks/search_quality.py {arguments.part} --data {arguments.data}"
    about = {"created": now(), "machine": this_machine().model_dump(), "command": command}
    kept = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    kept = {name: value for name, value in kept.items() if name not in ("trained_in_full", "spearman")}
    content = {**kept, "choice": {**about, **measured}} if arguments.part == "choice" else {**kept, **about, **measured}
    write_rows(arguments.output, content)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
