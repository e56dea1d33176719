"""Tables of speed, size and INT8: students, runtimes, phones, and peers."""

from __future__ import annotations

from statistics import mean
from typing import Any

from tools.site.tables.formats import interval, milliseconds, percents, read, table

from edgekit.shares import difference, hundredths, percent

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
            times.append(f"{milliseconds(p50)} ms, {f'**{gain}**' if row['variant'].endswith('int8') else gain}")
        top1 = "–" if "random weights" in name or row["accuracy"] is None else percent(row["accuracy"], 2)
        rows.append(["" if name == last else name, row["variant"], top1, f"{row['bytes'] / 1e6:.2f} MB", *times])
        last = name
    return table(["network", "variant", "top-1", "size", "p50, 1 thread", "p50, 2 threads"], rows)


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
        times = [interval(file["against_official"]) if "against_official" in file else "–" for file in theirs]
        pairs = [
            f"{files['litert-int8'][key]:.{digits}f} and {theirs[1][key]:.{digits}f}"
            for key, digits in (("sqnr_db", 1), ("cpu_seconds", 0), ("partitions", 0))
        ]
        rows.append([title, *times, *pairs])
    head = ["", "fp32", "int8", "int8, float inputs and outputs", "SQNR of int8, dB", "seconds", "XNNPACK's parts"]
    return table(head, rows)


def mobile_trained() -> str:
    """The points that students of CIFAR-10 lose by INT8 in each runtime."""
    rows = []
    for network in read("mobile_table")["networks"].values():
        if "accuracy" in network:
            files = (network["files"].get(f"{runtime}-int8", {}) for runtime in _RUNTIMES)
            drops = [f"{file['drop']:.2f}".replace("-", "−") if "drop" in file else "–" for file in files]
            rows.append([network["name"], percents(network["accuracy"]), *drops])
    return table(["student", "FP32", *_RUNTIMES.values()], rows)
