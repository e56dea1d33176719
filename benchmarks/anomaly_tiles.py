"""Pretraining for anomaly detection without published weights: whole images against tiles of them as instances.

    python benchmarks/anomaly_tiles.py --work /tmp/anomaly-tiles

Two kinds of sets, several seeds each: edgekit's generated textures, and the drawn parts of drawn_parts.py, nearly identical. The recipe is the one
that `edgekit init --task anomaly FOLDER` writes for the folder; only `pretrain.epochs` and `pretrain.tiles` differ. From each encoder, PatchCore and
PaDiM are built, and measured in float on the test images. `random` is the encoder before any training.

Interrupted, the same command goes on: what is measured is in --output, runs lie below --work. The order is by seed, so that all cells of a seed are
measured before the next one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edgekit
from drawn_parts import write_parts
from edgekit.data.anomaly_sets import AnomalySets, load_anomaly_sets
from edgekit.data.anomaly_template import anomaly_recipe_text
from edgekit.data.textures import write_textures
from edgekit.machine import this_machine
from edgekit.models.anomaly.detector import Detector
from edgekit.models.encoders import Encoder, build_encoder
from edgekit.models.store import load_pretrained
from edgekit.recipe import Recipe, read_yaml
from edgekit.result import now
from edgekit.tasks.anomaly import ANOMALY_DETECTION
from edgekit.tasks.anomaly_metrics import image_auroc, pixel_auroc, region_overlap
from edgekit.train.detect.build import Source, build_detector
from edgekit.train.evaluate import several_outputs
from edgekit.train.loop.loader import seed_for
from result_files import write_rows

HERE = Path(__file__).resolve().parent
SETS: dict[str, Callable[[Path, int], None]] = {
    "textures": lambda folder, seed: write_textures(folder, seed, TRAIN, TEST_GOOD, TEST_EACH),
    "parts": lambda folder, seed: write_parts(folder, seed, TRAIN, TEST_GOOD, TEST_EACH),
}
TRAIN, TEST_GOOD, TEST_EACH = 100, 60, 20
METHODS = ("patchcore", "padim")
METRICS = ("auroc", "pixel_auroc", "pro")
RANDOM, WHOLE = "random", "whole"


def cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is to be measured; `instances` is `random`, `whole`, or side x count of the tiles."""
    for seed in range(options.seeds):
        for name in options.sets.split(","):
            yield {"set": name, "seed": seed, "instances": RANDOM, "epochs": 0}
            for epochs in options.epochs.split(","):
                for instances in options.instances.split(","):
                    yield {"set": name, "seed": seed, "instances": instances, "epochs": int(epochs)}


def recipe_of(cell: dict[str, Any], data: Path, threads: int) -> Recipe:
    """The recipe that `init` writes, with the cell's length and instances."""
    content = read_yaml(anomaly_recipe_text(str(data))[0])
    content["seed"] = cell["seed"]
    content["hardware"] = {"threads": threads}
    content["pretrain"]["epochs"] = max(1, cell["epochs"])
    content["pretrain"].pop("tiles", None)
    if cell["instances"] not in {RANDOM, WHOLE}:
        side, count = cell["instances"].split("x")
        content["pretrain"]["tiles"] = {"side": float(side), "count": int(count)}
    return Recipe.read(content)


def encoder_of(cell: dict[str, Any], recipe: Recipe, work: Path) -> tuple[Encoder, dict[str, float]]:
    """The encoder of a cell, and what its training reports."""
    if cell["instances"] == RANDOM:
        torch.manual_seed(seed_for(recipe.seed, "pretrain", "weights"))
        encoder = build_encoder(
            recipe.pretrain.encoder, recipe.data.image_size, normalization=(recipe.data.mean, recipe.data.std)
        )
        return encoder.eval(), {}
    path = work / "-".join(str(value) for value in cell.values())
    begin = time.process_time()
    run = edgekit.train(recipe, run=path, until="pretrain")
    record = run.require("pretrain")
    told = {name: record.metrics[name] for name in ("collapse_std", "effective_rank") if name in record.metrics}
    return load_pretrained(run.stage_path("pretrain"), record.outputs).encoder, {
        **told, "cpu_seconds": time.process_time() - begin,
    }  # fmt: skip


def measured(detector: Detector, sets: AnomalySets, recipe: Recipe) -> dict[str, float]:
    """How well a detector finds the anomalies of the test set."""
    data, cpu = recipe.data, torch.device("cpu")
    outputs = several_outputs(detector, sets.test.images, data.mean, data.std, cpu, size=ANOMALY_DETECTION.batch)
    scores, maps = (output.numpy() for output in outputs)
    masks = sets.seen_masks()
    values = (image_auroc(scores, sets.labels), pixel_auroc(list(maps), masks), region_overlap(list(maps), masks))
    return dict(zip(METRICS, values, strict=True))


def rows_of(cell: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Measure a cell."""
    data = options.work / f"{cell['set']}-{cell['seed']}"
    if not data.exists():
        SETS[cell["set"]](data, cell["seed"])
    recipe = recipe_of(cell, data, options.threads)
    sets = load_anomaly_sets(recipe.data)
    encoder, told = encoder_of(cell, recipe, options.work / "runs")
    found = {}
    for method in METHODS:
        config = recipe.anomaly.model_copy(update={"method": method})
        source = Source(encoder, sets.normal, recipe.data.mean, recipe.data.std, torch.device("cpu"), recipe.seed)
        built = build_detector(config, source, lambda *_: encoder)  # neither method has a student
        found[method] = measured(built.detector, sets, recipe)
    return {**cell, **found, **told}


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean over the seeds of each set, instances and length."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["instances"], row["epochs"]), []).append(row)
    return [
        {
            "set": name, "instances": instances, "epochs": epochs, "seeds": len(own),
            **{m: {k: float(np.mean([r[m][k] for r in own])) for k in METRICS} for m in METHODS},
        }
        for (name, instances, epochs), own in sorted(groups.items())
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/anomaly-tiles"))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", default="10,40")
    parser.add_argument(
        "--instances", default=f"{WHOLE},0.375x4", help="whole, or side x count of tiles; separated by commas"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "anomaly_tiles.json")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    rows = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
    keys = ("set", "seed", "instances", "epochs")
    done = {tuple(row[key] for key in keys) for row in rows}
    for cell in cells(options):
        if tuple(cell[key] for key in keys) in done:
            continue
        rows.append(rows_of(cell, options))
        print(json.dumps(rows[-1]), flush=True)
        write_rows(
            options.output,
            {
                "created": now(), "machine": this_machine().model_dump(mode="json"), "threads": options.threads, "training_images": TRAIN,
                "test_images": [TEST_GOOD, 5 * TEST_EACH], "means": means(rows), "rows": rows,
            },
        )  # fmt: skip


if __name__ == "__main__":
    main()
