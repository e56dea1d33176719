"""Tables of the documentation, made from `benchmarks/results/*.json`, so that a number on a page cannot differ from its file.

A page marks the place of a table:

    <!-- table: NAME -->
    …
    <!-- /table -->

`make docs-update` writes the tables into the pages, so that they are read on GitHub, too; the build of the site makes them again, and a test
compares. A new table is a function in this file with a line in `TABLES`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from edgekit.shares import difference, hundredths, percent

ROOT = Path(__file__).resolve().parents[2]
_MARKED = re.compile(
    r"(?P<start><!-- table: (?P<name>[\w-]+) -->\n)(?P<content>.*?)(?P<end><!-- /table -->)", re.DOTALL
)


def filled(markdown: str) -> str:
    """Return a page with every marked table made anew.

    Raises:
        KeyError: a marker names a table that is not in `TABLES`.
    """
    return _MARKED.sub(lambda found: f"{found['start']}{TABLES[found['name']]()}\n{found['end']}", markdown)


def marked(markdown: str) -> list[str]:
    """Return the names of the tables that a page marks."""
    return [found["name"] for found in _MARKED.finditer(markdown)]


def read(name: str) -> Any:
    """Return a result file of `benchmarks/results/`."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "|" + "|".join(cell if cell == "---" else f" {cell} " if cell else " " for cell in line) + "|" for line in lines
    )


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else hundredths(share, digits)


def _points(share: float) -> str:
    return hundredths(share, signed=True)


def _ms(value: float) -> str:
    """Return milliseconds with three digits: `0.400`, `24.8`."""
    return f"{value:#.3g}".removesuffix(".")


def cifar10() -> str:
    """Mean of the label draws: what the unlabeled images are worth on CIFAR-10."""
    rows = []
    cells = read("cifar10")["cells"]
    for labels in sorted({cell["labels"] for cell in cells}):
        same = [cell for cell in cells if cell["labels"] == labels]
        gains = [difference(cell["student"], cell["supervised"]) for cell in same]
        values = [
            _percent(mean(cell[key] for cell in same)) for key in ("teacher", "student", "student_int8", "supervised")
        ]
        gain = f"**{_points(mean(gains))} points** ({_points(min(gains))} to {_points(max(gains))})"
        rows.append([f"{100 * labels:g} % ({same[0]['labelled_images']:,})", *values, gain])
    return table(
        ["labels", "teacher", "student", "INT8 student", "student from scratch", "gain from unlabeled images"], rows
    )


_SETS = {
    "mnist": "MNIST, 5,000",
    "photographs": "tiles of 14 photographs, 4,889",
    "digits": "scikit-learn's digits, 1,438",
    "textures": "textures, 4,992: tiles of 12 parts of two photographs, of other places in the test set",
}


def promise() -> str:
    """The recipe of `edgekit init`, unchanged, on four sets of images."""
    rows = []
    measured = read("promise")["cells"]
    names = [*_SETS, *dict.fromkeys(cell["set"] for cell in measured if cell["set"] not in _SETS)]
    for name in names:
        cells = sorted(
            (cell for cell in measured if cell["set"] == name), key=lambda cell: (cell["labels"], cell["draw"])
        )
        budgets = [cell["labels"] for cell in cells]
        for i, cell in enumerate(cells):
            low, high = cell["interval"]
            gain = f"{_points(cell['gain'])}"
            interval = f"({_points(low)} to {_points(high)})"
            significant = low > 0 or high < 0
            gain = f"**{gain}** {interval}" if significant else f"{gain} {interval}: no significant difference"
            values = [_percent(cell[key]) for key in ("student", "teacher", "frozen_probe", "scratch")]
            labels = f"{cell['labels']:g}" + (f", draw {cell['draw']}" if budgets.count(cell["labels"]) > 1 else "")
            rows.append(["" if i else _SETS.get(name, name), labels, *values, gain])
    head = [
        "images",
        "labels per class",
        "student",
        "teacher",
        "probe on the frozen encoder",
        "from scratch",
        "student minus scratch",
    ]
    return table(head, rows)


def methods() -> str:
    """Pretraining methods on the embedded digits, the best kNN of the trained ones first."""
    cells = read("methods_digits")["cells"]
    random = [cell for cell in cells if cell["row"] == "random weights"]
    trained = sorted((cell for cell in cells if cell["row"] != "random weights"), key=lambda cell: -cell["knn"])
    rows = [
        [cell["row"], *(_percent(cell[key]) for key in ("knn", "linear", "teacher"))] for cell in [*random, *trained]
    ]
    return table(["method", "kNN", "linear probe", "teacher on 30 labels"], rows)


_NETWORKS = {
    "MobileNetV3-small": "MobileNetV3-small, 32 px (hard-swish, SE)",
    "ResNet-10": "ResNet-10 ×0.25, 32 px (ReLU)",
    "ResNet-18, random weights": "ResNet-18, 224 px, random weights",
    "EfficientNet-Lite0, random weights": "EfficientNet-Lite0, 224 px, random weights (ReLU6)",
}


def students() -> str:
    """Accuracy, size and latency of students in every runtime."""
    rows, last = [], ""
    for row in read("students")["rows"]:
        name = _NETWORKS.get(row["student"], row["student"])
        times = []
        for threads in ("1", "2"):
            p50, gain = row["p50_ms"][threads], f"{row['times_as_fast_as_fp32'][threads]:.2f}×"
            times.append(f"{_ms(p50)} ms, {f'**{gain}**' if row['variant'].endswith('int8') else gain}")
        top1 = "–" if "random weights" in name or row["accuracy"] is None else percent(row["accuracy"], 2)
        rows.append(["" if name == last else name, row["variant"], top1, f"{row['bytes'] / 1e6:.2f} MB", *times])
        last = name
    return table(["network", "variant", "top-1", "size", "p50, 1 thread", "p50, 2 threads"], rows)


def recognition() -> str:
    """A gallery of digits that training did not see."""
    names = {
        "raw pixels": "raw pixels",
        "random encoder": "random encoder",
        "encoder": "pretrained encoder",
        "teacher": "teacher",
    }
    rows = []
    for row in read("recognition_digits")["rows"]:
        shots = [percent(row[f"{count}-shot"]["top1"]) for count in (1, 5, 20)]
        rows.append([names.get(row["representation"], row["representation"]), *shots, f"{row['auroc']:.3f}"])
    return table(["", "1 image", "5 images", "20 images", "AUROC"], rows)


_EMBEDDINGS = {
    "raw pixels": "raw pixels",
    "random encoder": "random encoder",
    "encoder": "pretrained encoder",
    "teacher": "teacher (its linear probe was kept)",
    "student, kd": "student, `distill.loss: kd`",
    "student, kd: onnx-int8": "its INT8, ONNX Runtime",
    "student, feature": "student, `distill.loss: feature`",
    "student, feature: onnx-int8": "its INT8, ONNX Runtime",
}


def embeddings() -> str:
    """Which network embeds best: those of `recognition` that a reader chooses among."""
    measured = {row["representation"]: row for row in read("recognition_digits")["rows"]}
    rows = []
    for name, shown in _EMBEDDINGS.items():
        row = measured[name]
        shots = [_percent(row[f"{count}-shot"]["top1"]) for count in (1, 5, 20)]
        rows.append([shown, *shots, f"{row['auroc']:.3f}"])
    return table(["", "1 image, %", "5 images, %", "20 images, %", "AUROC"], rows)


_SCORES = {
    "distance, embedding": (
        "`distance`, with `--embedding`",
        "minus the squared Mahalanobis distance from the nearest class, in the embedding (Lee et al. 2018)",
    ),
    "distance, logits": ("`distance` (default)", "the same in the logits"),
    "probability": ("`probability`", "the highest calibrated probability (Hendrycks and Gimpel 2017)"),
    "energy": ("`energy`", "log sum exp of the logits (Liu et al. 2020)"),
}


def unknown_scores() -> str:
    """What tells unknown images from known ones, in INT8: means over networks and unknown sets."""
    means = {(row["near"], row["score"]): row for row in read("unknown")["summary"] if row["variant"] == "onnx-int8"}
    rows = []
    for score, (option, words) in _SCORES.items():
        cells = []
        for near in (False, True):
            found = means[near, score]
            cells += [percent(found["auroc"]), percent(found["false_accepts"])]
        rows.append([option, words, *cells])
    rows.append(["`never`", "none", "", "", "", ""])
    return table(
        ["`edgekit export --abstain`", "score", "AUROC, far unknowns", "accepted", "AUROC, near", "accepted"], rows
    )


def pretraining_speed() -> str:
    """Images a second of a whole SimCLR step, beside LightlySSL's example."""
    rows = []
    for row in read("pretrain_throughput")["rows"]:
        speeds = {side: mean(r[side]["images_per_second"] for r in row["rounds"]) for side in ("edgekit", "lightly")}
        width = "" if row["width"] == 1 else f" ×{row['width']:g}"
        each = ", ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        rows.append(
            [
                f"ResNet-18{width}, {row['size']} px",
                row["precision"],
                str(row["batch"]),
                f"{speeds['edgekit']:.0f}",
                f"{speeds['lightly']:.0f}",
                f"{row['ratio']:.2f} ({each})",
            ]
        )
    return table(
        ["encoder, images", "precision", "batch", "edgekit, images/s", "LightlySSL, images/s", "ratio (each round)"],
        rows,
    )


def session_overhead() -> str:
    """What `Session.run` costs over the runtime's own call."""
    rows = [
        [row["runtime"], f"{row['bare_ms']:.3f} ms", f"{row['session_ms']:.3f} ms", f"{100 * (row['ratio'] - 1):.2f} %"]
        for row in read("session_overhead")["measurements"]
    ]
    return table(["runtime", "the runtime's own call", "`Session.run`", "cost"], rows)


def calibration_peers() -> str:
    """INT8 in ONNX Runtime beside Optimum's, of the same float file."""
    rows = []
    for network, file in (
        ("ResNet-10 ×0.25", "export_peers_resnet10"),
        ("MobileNetV3-small", "export_peers_mobilenetv3"),
    ):
        measured = read(file)["rows"]
        reference = next(row for row in measured if row["name"] == "float")
        for i, row in enumerate(measured):
            drop = (
                ""
                if row is reference
                else hundredths(difference(reference["accuracy"], row["accuracy"]), 2).replace("-", "−")
            )
            rows.append(
                ["" if i else network, row["name"], f"{row['bytes'] / 1e3:,.0f} kB", f"{row['p50_ms']:.3f} ms", drop]
            )
    return table(["network", "file", "size", "p50", "drop, points"], rows)


_DETECTORS = {"patchcore": "PatchCore", "padim": "PaDiM", "stfpm": "STFPM"}


def anomaly() -> str:
    """Detectors on generated textures: quality, size and latency of each variant."""
    found = read("anomaly")
    times = {(row["method"], row["variant"]): row for row in found["speed"]}
    rows, last = [], ""
    for row in found["variants"]:
        values = [f"{row[key]:.3f}" for key in ("auroc", "pixel_auroc", "pro")]
        timed = times.get((row["method"], row["variant"]))
        name = _DETECTORS[row["method"]]
        rows.append(
            [
                "" if name == last else name,
                row["variant"],
                *values,
                f"{row['mb']:.2f} MB",
                f"{_ms(timed['ms'])} ms" if timed else "–",
            ]
        )
        last = name
    return table(["method", "variant", "AUROC", "pixel AUROC", "PRO", "size", "time an image"], rows)


def anomaly_peer() -> str:
    """The same methods in anomalib: quality on the same images, and how many times its time edgekit's variants are faster."""
    found = read("anomaly")
    rows = []
    for cell in found["accuracy"]["methods"]:
        ours, theirs = (
            [f"{cell[tool][key]:.3f}" for key in ("auroc", "pixel_auroc", "pro")] for tool in ("edgekit", "anomalib")
        )
        name, (low, high) = _DETECTORS[cell["method"]], cell["interval"]
        rows.append([name, "edgekit", *ours, f"{_points(cell['difference'])} ({_points(low)} to {_points(high)})"])
        rows.append(["", "anomalib", *theirs, ""])
    return table(["method", "", "AUROC", "pixel AUROC", "PRO", "difference of AUROC, points"], rows)


def anomaly_speed() -> str:
    """How many times as fast as anomalib's PyTorch model and as its export each variant is."""
    rows, last = [], ""
    peers = ("anomalib, PyTorch", "anomalib, ONNX Runtime")
    for row in read("anomaly")["speed"]:
        if f"ratio to {peers[0]}" in row:
            name = _DETECTORS[row["method"]]
            ratios = [
                f"{middle:.1f} ({low:.1f} to {high:.1f})"
                for middle, low, high in (row[f"ratio to {peer}"] for peer in peers)
            ]
            rows.append(["" if name == last else name, row["variant"], *ratios])
            last = name
    return table(["method", "variant", "times as fast as its PyTorch model", "as its ONNX export"], rows)


def anomaly_trimmed() -> str:
    """Pools of which a share has defects, without and with trimming."""
    rows, last = [], ""
    for row in read("anomaly")["contaminated"]:
        values = [f"{row[key]:.3f}" for key in ("auroc", "pixel_auroc", "pro")]
        name = _DETECTORS[row["method"]]
        rows.append(
            ["" if name == last else name, _percent(row["contamination"], 0) + " %", f"{row['trim']:g}", *values]
        )
        last = name
    return table(["method", "defects in the pool", "`trim`", "AUROC", "pixel AUROC", "PRO"], rows)


_MOBILE = {
    "mobilenetv3_small": "MobileNetV3-small",
    "mobilenetv4_small": "MobileNetV4-small",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "resnet18": "ResNet-18",
    "resnet10": "ResNet-10 ×0.5, 32 px",
    "vit_tiny": "ViT-tiny",
}
_RUNTIMES = {
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
    "executorch": "ExecuTorch",
    "official": "official LiteRT tools",
}


def mobile(precision: str) -> str:
    """Relative time, SQNR, size and seconds to make of the files of a precision, a network a row and a runtime a column."""
    networks = read("mobile_table")["networks"]
    rows = []
    for name, title in _MOBILE.items():
        found = (networks[name]["files"].get(f"{runtime}-{precision}") for runtime in _RUNTIMES)
        rows.append([title, *(_mobile_cell(file) for file in found)])
    return table(["", *_RUNTIMES.values()], rows)


def _mobile_cell(file: dict[str, Any] | None) -> str:
    if file is None or "failed" in file:
        return "–"
    sqnr, size, seconds = file["sqnr_db"], file["bytes"] / 1e6, file["cpu_seconds"]
    decibels = f"{sqnr:.0f}" if sqnr > 50 else f"{sqnr:.1f}"
    time = f"{file['ratio']['median']:.2f}" if "ratio" in file else "–"
    return f"{time}, {decibels} dB, {size:.1f} MB, {seconds:.0f} s"


def mobile_official() -> str:
    """edgekit's LiteRT files beside those of the official tools: time in the same rounds, INT8's SQNR, seconds to make it."""
    networks = read("mobile_table")["networks"]
    rows = []
    for name, title in _MOBILE.items():
        files = networks[name]["files"]
        theirs = [files.get(f"official-{kind}", {}) for kind in ("fp32", "int8", "int8-float-io")]
        if not any(theirs):
            continue
        times = [_interval(file["against_official"]) if "against_official" in file else "–" for file in theirs]
        pairs = [
            f"{files['litert-int8'][key]:.{digits}f} and {theirs[1][key]:.{digits}f}"
            for key, digits in (("sqnr_db", 1), ("cpu_seconds", 0), ("partitions", 0))
        ]
        rows.append([title, *times, *pairs])
    head = ["", "fp32", "int8", "int8, float inputs and outputs", "SQNR of int8, dB", "seconds", "XNNPACK's parts"]
    return table(head, rows)


def _interval(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def mobile_trained() -> str:
    """The points that students of CIFAR-10 lose by INT8 in each runtime."""
    rows = []
    for network in read("mobile_table")["networks"].values():
        if "accuracy" in network:
            files = (network["files"].get(f"{runtime}-int8", {}) for runtime in _RUNTIMES)
            drops = [f"{file['drop']:.2f}".replace("-", "−") if "drop" in file else "–" for file in files]
            rows.append([network["name"], _percent(network["accuracy"]), *drops])
    return table(["student", "FP32", *_RUNTIMES.values()], rows)


TABLES: dict[str, Callable[[], str]] = {
    "cifar10": cifar10,
    "promise": promise,
    "methods": methods,
    "students": students,
    "recognition": recognition,
    "anomaly": anomaly,
    "anomaly-peer": anomaly_peer,
    "anomaly-speed": anomaly_speed,
    "anomaly-trimmed": anomaly_trimmed,
    "embeddings": embeddings,
    "unknown": unknown_scores,
    "pretraining-speed": pretraining_speed,
    "session-overhead": session_overhead,
    "peers": calibration_peers,
    "mobile-fp32": lambda: mobile("fp32"),
    "mobile-int8": lambda: mobile("int8"),
    "mobile-official": mobile_official,
    "mobile-trained": mobile_trained,
}
