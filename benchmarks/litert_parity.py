"""How near a LiteRT file in FP32 comes to the network that it was made of: networks of timm and torchvision, one process each.

    python benchmarks/litert_parity.py [--only resnet18 vit] [--again] [--output …]

The networks, their seeded weights that look trained, and the images are those of `export_sweep.py`. Each is written as `edgekit export
--target litert --precision fp32` writes it, run by LiteRT alone and in a batch of `IMAGES`, and compared with PyTorch. The difference is the
largest one of a logit, relative to the range of the logits. The goal is `GOAL`, and the same decision for every image.

The result file is written after each network; a second call goes on with those that are missing. What is refused stands in it with the line
that a user reads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgekit.machine import this_machine
from edgekit.result import now
from export_sweep import CLASSES, build, look_trained, networks, write_images
from result_files import write_rows

GOAL = 1e-4
IMAGES = 8
FLAT = 1e-2  # a range of the logits below which a random network says the same of every image, and agreement nothing
CALIBRATING = 48  # images that BatchNorm's statistics are taken from
LIMIT_SECONDS = 900


def one(name: str, size: int) -> dict[str, Any]:
    """Write one network and run it."""
    import numpy as np
    import torch
    from PIL import Image

    from edgekit.errors import EdgekitError
    from edgekit.export.litert.convert import lower
    from edgekit.export.litert.maker import write
    from edgekit.export.litert.normalization import by_rows
    from edgekit.models.pixels import PixelClassifier
    from edgekit.onnx_graph.build import export_onnx
    from edgekit.onnx_graph.files import read_onnx
    from edgekit.runtimes import open_session

    with tempfile.TemporaryDirectory(prefix="edgekit-litert-") as scratch:
        folder = Path(scratch)
        write_images(folder / "images", CALIBRATING, size)
        pixels = np.stack([np.asarray(Image.open(file)) for file in sorted((folder / "images").iterdir())])
        try:
            torch.manual_seed(0)
            network = build(name, size)
            look_trained(network, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
        except Exception as error:  # the library's own network does not run at this size
            return {"status": "not built", "message": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        model = PixelClassifier(network, 0.5, 0.5).eval()
        images = pixels[:IMAGES]
        with torch.no_grad():
            expected = model(torch.from_numpy(images)).numpy()
        onnx, path = folder / "model.onnx", folder / "model.tflite"
        try:
            export_onnx(model, onnx, image_size=size, classes=[f"class {i}" for i in range(CLASSES)])
        except EdgekitError as error:
            return {"status": "no float graph", "message": error.message[:300]}
        began = time.monotonic()
        try:
            graph = by_rows(lower(read_onnx(onnx)))
        except EdgekitError as error:
            return {"status": "refused", "message": error.message[:300]}
        write(graph, path, onnx, "fp32")
        seconds = time.monotonic() - began
        session = open_session("litert", path, threads=1)
        together = session.run(images)
        singly = np.concatenate([session.run(np.ascontiguousarray(image[None])) for image in images])
        answers = np.stack([together, singly])
        reach = float(np.ptp(expected))
        difference = float(np.abs(answers - expected).max()) / reach
        decisions = bool((answers.argmax(2) == expected.argmax(1)).all())
        same = "same" if difference <= GOAL and decisions else "DIFFERS"
        return {
            "status": same if reach >= FLAT else "logits too flat to compare",
            "difference": difference,
            "decisions": decisions,
            "range": reach,
            "seconds": round(seconds, 2),
            "operators": len(graph.operators),
            "partitions": int(session.settings["xnnpack_partitions"]),
            "outside": session.settings["outside_xnnpack"],
        }


def sweep(arguments: argparse.Namespace) -> None:
    """All networks that are asked for and not in the result file yet; what the file holds of others stays."""
    wanted = [n for n in networks() if not arguments.only or any(part in n[1] for part in arguments.only)]
    output: Path = arguments.output
    rows: dict[str, Any] = json.loads(output.read_text())["networks"] if output.exists() else {}
    for family, name, size in wanted:
        if name in rows and not arguments.again:
            continue
        command = [sys.executable, __file__, "--one", name, str(size)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
                timeout=LIMIT_SECONDS, check=False,
            )  # fmt: skip
            failed = {"status": "failed", "message": done.stderr[-300:]}
            row = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else failed
        except subprocess.TimeoutExpired:
            row = {"status": "failed", "message": f"more than {LIMIT_SECONDS} s"}
        rows[name] = {"family": family, "size": size, **row}
        write_rows(output, summary(rows))
        said = f"{row['difference']:.1e}, {row['partitions']} partitions" if "difference" in row else row["message"]
        print(f"{name} @{size}: {row['status']} {said}", flush=True)


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """The content of the result file."""
    by_status: dict[str, int] = {}
    for row in rows.values():
        by_status[row["status"]] = by_status.get(row["status"], 0) + 1
    written = [row for row in rows.values() if row["status"] in {"same", "DIFFERS"}]
    return {
        "created": now(),
        "command": ["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]],
        "machine": this_machine().model_dump(),
        "goal": {"difference": GOAL, "decisions": "the same for every image", "images": IMAGES},
        "networks_by_status": by_status,
        "families": len({row["family"] for row in written}),
        "largest_difference": max((row["difference"] for row in written), default=None),
        "in_one_partition": sum(row["partitions"] == 1 for row in written),
        "networks": dict(sorted(rows.items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="networks whose name holds one of these")
    parser.add_argument("--again", action="store_true", help="also those that are in the result file")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SIZE"), help=argparse.SUPPRESS)
    results = Path(__file__).parent / "results"
    parser.add_argument("--output", type=Path, default=results / "litert_parity.json")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one[0], int(arguments.one[1]))))
        return
    sweep(arguments)


if __name__ == "__main__":
    main()
