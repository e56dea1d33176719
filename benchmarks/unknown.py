"""Which score tells known from unknown images: probability, energy, or distance, in the embedding or in the logits; float and INT8.

    python benchmarks/unknown.py --data DATA --run NAME=RUN … [--work DIR] [--output FILE]

DATA holds mnist/ and cifar10/, each with train/ and test/. Of digits, mnist and cifar10, three, three and four classes are never trained on: a
small network learns the others from their labels and must call the rest unknown (near unknowns). A complete RUN brings its student, for
which the other sets' test images are unknown (far unknowns). Every network is exported to ONNX, FP32 and INT8; each variant's threshold
is set on its own outputs for the probe images, so that 5 % of them are called unknown.

For each score: AUROC of known test images against unknown ones, the share of unknown images that are accepted (false accepts), and the share of
known test images that are not (false abstains). Also the expected calibration error and the negative log-likelihood on the test images, before
and after the temperature, and the size of what the score needs. Nearest neighbors are measured beside the scores that edgekit has (Sun
et al. 2022, cosine to the nearest image of the pool). Interrupted, it goes on where it was: bundles and outputs lie below --work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from edgekit.abstention import FALSE_ABSTAIN
from edgekit.bundle import Bundle
from edgekit.data.splits import Splits, load_splits
from edgekit.export.pipeline import ExportOptions, export_classifier
from edgekit.machine import this_machine
from edgekit.models.classifier import Classifier
from edgekit.models.pixels import PixelClassifier, normalize
from edgekit.models.store import load_classifier
from edgekit.preprocess import Preprocessing
from edgekit.recipe import Architecture, parse
from edgekit.run import Run
from edgekit.runtimes import load
from edgekit.runtimes.session import run_in_batches
from edgekit.tasks.calibration import calibration_error, negative_log_likelihood, reliability, temperature_for
from edgekit.tasks.unknown import Geometry, score_images, threshold_at
from image_sets import prepare
from result_files import write_rows

Images = NDArray[np.uint8]
Outputs = dict[str, NDArray[np.float32]]
SIZE, MEAN, STD = 32, 0.5, 0.25
NEIGHBORS = "nearest neighbor"
HELD_OUT = {"digits": 3, "mnist": 3, "cifar10": 4}  # the last classes, never trained on
STEPS = {"digits": 300, "mnist": 600, "cifar10": 600}
POOL, TEST, FAR = 2000, 1000, 500  # images, at most
SETS = ["digits", "photographs", "textures", "mnist", "cifar10"]


@dataclass(frozen=True)
class Experiment:
    """A network, what it knows, and what it has never seen; all images uint8 (n, 32, 32, 3)."""

    name: str
    model: Callable[[], PixelClassifier]
    classes: list[str]
    pool: Images
    probe: tuple[Images, NDArray[np.int64]]
    test: tuple[Images, NDArray[np.int64]]
    unknown: dict[str, Images]


def rows_of(images: Any, most: int) -> NDArray[np.int64]:
    """Rows of at most so many images, evenly."""
    return np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(np.int64)


def some(images: Any, most: int) -> Images:
    return np.ascontiguousarray(np.asarray(images[rows_of(images, most)]))


def labeled(images: Any, labels: NDArray[np.int64] | None, most: int) -> tuple[Images, NDArray[np.int64]]:
    assert labels is not None
    return some(images, most), labels[rows_of(images, most)]


def splits_of(name: str, data: Path, work: Path) -> Splits:
    prepare(name, data, work)
    folder = work / "data" / name
    source: dict[str, Any] = {"labeled": str(folder / "train"), "test": str(folder / "test")}
    if name == "digits":
        source = {"labeled": "digits", "test": 0.2}
    return load_splits(parse({"data": {**source, "probe": 0.1, "labels": 1.0, "image_size": SIZE}}).data)


def held_out(name: str, splits: Splits, far: dict[str, Images]) -> Experiment:
    known = len(splits.classes) - HELD_OUT[name]
    train, test = splits.labeled.center_crop(SIZE), splits.test
    assert train.labels is not None
    assert test.labels is not None
    assert splits.probe.labels is not None
    of_known = train.labels < known
    images, labels = np.asarray(train.images)[of_known], train.labels[of_known]
    probe, is_probe = np.asarray(splits.probe.images), splits.probe.labels < known
    seen = test.labels < known
    tested = np.asarray(test.images)
    return Experiment(
        f"{name}, {HELD_OUT[name]} of {len(splits.classes)} classes held out",
        lambda: trained(images, labels, splits.classes[:known], STEPS[name]),
        splits.classes[:known],
        some(images, POOL),
        labeled(probe[is_probe], splits.probe.labels[is_probe], POOL),
        labeled(tested[seen], test.labels[seen], TEST),
        {f"{name}: held-out classes": some(tested[~seen], FAR), **far},
    )


def trained(images: Images, labels: NDArray[np.int64], classes: list[str], steps: int) -> PixelClassifier:
    """A ResNet-18 of a quarter of the width, from labels alone, with shifted images."""
    torch.manual_seed(0)
    model = Classifier.build(Architecture(name="resnet18", width=0.25, stem="strided"), SIZE, classes, [])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)
    every, truth = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(steps):
        rows = torch.randint(len(every), (64,))
        padded = functional.pad(every[rows], (0, 0, 3, 3, 3, 3))
        top, left = torch.randint(7, (2,)).tolist()
        batch = normalize(padded[:, top : top + SIZE, left : left + SIZE], MEAN, STD)
        loss = functional.cross_entropy(model(batch), truth[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return PixelClassifier(model.eval(), MEAN, STD).eval()


def of_run(name: str, folder: Path, far: dict[str, Images]) -> Experiment:
    run = Run(folder)
    splits = load_splits(run.recipe.data, run)
    return Experiment(
        f"{name}, a run's student",
        lambda: PixelClassifier(
            load_classifier(run.stage_path("distill"), run.require("distill").outputs), MEAN, STD
        ).eval(),
        splits.classes,
        np.asarray(splits.pool.subset(rows_of(splits.pool, POOL)).center_crop(SIZE).images),
        labeled(splits.probe.images, splits.probe.labels, POOL),
        labeled(splits.test.images, splits.test.labels, TEST),
        {key: images for key, images in far.items() if key != name.partition("-")[0]},
    )


def outputs_of(experiment: Experiment, work: Path) -> dict[str, dict[str, Outputs]]:
    """For each variant the outputs of each set of images."""
    folder = work / experiment.name.replace(" ", "-").replace(",", "")
    found = {}
    for variant in ("onnx-fp32", "onnx-int8"):
        path = folder / f"{variant}.npz"
        if not path.exists():
            bundle = exported(experiment, folder / "bundle")
            sets = {
                "pool": experiment.pool,
                "probe": experiment.probe[0],
                "test": experiment.test[0],
                **experiment.unknown,
            }
            session = load(bundle, bundle.variant(variant))
            outputs = {
                name: run_in_batches(session, np.ascontiguousarray(images), 100) for name, images in sets.items()
            }
            session.close()
            np.savez(path, **{f"{name}/{key}": value for name, part in outputs.items() for key, value in part.items()})
        with np.load(path) as stored:
            sets = {key.rpartition("/")[0] for key in stored}
            found[variant] = {name: {key: stored[f"{name}/{key}"] for key in ("logits", "embedding")} for name in sets}
    return found


def exported(experiment: Experiment, folder: Path) -> Bundle:
    return export_classifier(
        experiment.model(),
        classes=experiment.classes,
        preprocessing=Preprocessing(image_size=SIZE, resize_to=SIZE),
        calibration=some(experiment.pool, 300),
        evaluation=experiment.test,
        output=folder,
        targets=["onnx"],
        precisions=["fp32", "int8"],
        embedding=True,
        timed=False,
        options=ExportOptions(search_minutes=1.0),
        name=experiment.name,
    )


def auroc(known: NDArray[np.float64], unknown: NDArray[np.float64]) -> float:
    """The chance that a known image has a higher score than an unknown one; ties count half."""
    ordered = np.sort(unknown)
    below, not_above = (np.searchsorted(ordered, known, side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(unknown)))


def neighbor_scores(values: NDArray[np.float32], pool: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine to the nearest image of the pool, (n,)."""
    unit = [v.astype(np.float64) / np.linalg.norm(v, axis=1, keepdims=True) for v in (values, pool)]
    return (unit[0] @ unit[1].T).max(axis=1)


def scores_of(outputs: Outputs, pool: Outputs, temperature: float) -> dict[str, tuple[NDArray[np.float64], int]]:
    """Every score of each image, and the bytes that it needs beside the graph; `pool` holds the float variant's outputs."""
    logits, found = outputs["logits"], {}
    found["probability"] = (score_images("probability", logits, temperature, None, None), 0)
    found["energy"] = (score_images("energy", logits, temperature, None, None), 0)
    for name in ("logits", "embedding"):
        geometry = Geometry.of(name, pool[name], pool["logits"].argmax(1))
        assert geometry is not None
        size = geometry.means.nbytes + geometry.whitening.nbytes
        found[f"distance, {name}"] = (score_images("distance", logits, temperature, geometry, outputs[name]), size)
    found[NEIGHBORS] = (neighbor_scores(outputs["embedding"], pool["embedding"]), pool["embedding"].nbytes)
    return found


def compared(experiment: Experiment, variants: dict[str, dict[str, Outputs]]) -> list[dict[str, Any]]:
    """A row for each variant, score and set of unknown images."""
    rows = []
    pool, (_, labels), (_, truth) = variants["onnx-fp32"]["pool"], experiment.probe, experiment.test
    for variant, sets in variants.items():
        temperature = temperature_for(sets["probe"]["logits"], labels)
        tested = sets["test"]["logits"]
        errors = [calibration_error(reliability(tested, truth, t)) for t in (1.0, temperature)]
        likelihoods = [negative_log_likelihood(tested, truth, t) for t in (1.0, temperature)]
        common = {
            "network": experiment.name, "variant": variant, "top1": float((tested.argmax(1) == truth).mean()), "probe": len(labels),
            "temperature": temperature, "ece": errors, "nll": likelihoods,
        }  # fmt: skip
        each = {name: scores_of(outputs, pool, temperature) for name, outputs in sets.items() if name != "pool"}
        for score in each["test"]:
            threshold, _ = threshold_at(each["probe"][score][0], FALSE_ABSTAIN)
            known, size = each["test"][score]
            for name in experiment.unknown:
                unknown = each[name][score][0]
                rows.append({
                    **common, "score": score, "bytes": size, "unknown": name, "near": "held-out" in name,
                    "auroc": auroc(known, unknown), "false_accepts": float((unknown >= threshold).mean()),
                    "false_abstains": float((known < threshold).mean()),
                })  # fmt: skip
    return rows


def show(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print and return the means over networks and unknown sets, and in how many of them a score has the highest AUROC."""
    summary = []
    print(
        f"{'unknowns':<6} {'variant':<10} {'score':<20} {'pairs':>5} {'AUROC':>6} {'accepted':>8} {'abstained':>9} {'best':>5}"
    )
    for near in (True, False):
        for variant in ("onnx-fp32", "onnx-int8"):
            of_kind = [row for row in rows if row["near"] == near and row["variant"] == variant]
            best: dict[tuple[str, str], float] = {}
            for row in of_kind:
                pair = row["network"], row["unknown"]
                best[pair] = max(best.get(pair, 0.0), row["auroc"])
            for score in dict.fromkeys(row["score"] for row in of_kind):
                part = [row for row in of_kind if row["score"] == score]
                means = {
                    key: float(np.mean([row[key] for row in part]))
                    for key in ("auroc", "false_accepts", "false_abstains")
                }
                wins = sum(row["auroc"] >= best[row["network"], row["unknown"]] - 1e-9 for row in part)
                summary.append(
                    {"near": near, "variant": variant, "score": score, "pairs": len(part), **means, "best": wins}
                )
                print(
                    f"{'near' if near else 'far':<8} {variant:<10} {score:<20} {len(part):>5} {means['auroc']:>6.1%} "
                    f"{means['false_accepts']:>8.1%} {means['false_abstains']:>9.1%} {wins:>5}"
                )
    return summary


def packed(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows without what all of a network's variant share, and that once."""
    shared = ("top1", "probe", "temperature", "ece", "nll")
    networks = {
        (row["network"], row["variant"]): {key: row[key] for key in ("network", "variant", *shared)} for row in rows
    }
    return {
        "networks": list(networks.values()),
        "rows": [{key: value for key, value in row.items() if key not in shared} for row in rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--run", action="append", default=[], metavar="NAME=RUN", help="NAME is one of the sets, which it knows"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/unknown"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "unknown.json")
    arguments = parser.parse_args()
    splits = {name: splits_of(name, arguments.data, arguments.work) for name in SETS}
    far = {name: some(found.test.images, FAR) for name, found in splits.items()}
    experiments = [held_out(name, splits[name], {k: v for k, v in far.items() if k != name}) for name in HELD_OUT]
    experiments += [
        of_run(name, Path(folder), far) for name, _, folder in (text.partition("=") for text in arguments.run)
    ]
    rows = [row for experiment in experiments for row in compared(experiment, outputs_of(experiment, arguments.work))]
    summary = show(rows)
    machine = this_machine()
    write_rows(
        arguments.output,
        {
            "command": "python benchmarks/unknown.py --data DATA "
            + " ".join(f"--run {text.partition('=')[0]}=RUN" for text in arguments.run),
            "machine": {"cpu": machine.cpu, "packages": machine.packages},
            "false_abstain": FALSE_ABSTAIN,
            "summary": summary,
            **packed(rows),
        },
    )


if __name__ == "__main__":
    main()
