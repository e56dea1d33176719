"""Tables of speed and size: students, runtimes, phones, installations, and large folders."""

from __future__ import annotations

from typing import Any

from tools.site.tables.formats import decimals, interval, milliseconds, percents, read, table

from edgekit.shares import percent

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


def session_overhead() -> str:
    """What `Session.run` costs over the runtime's own call."""
    rows = [
        [row["runtime"], f"{row['bare_ms']:.3f} ms", f"{row['session_ms']:.3f} ms", f"{100 * (row['ratio'] - 1):.2f} %"]
        for row in read("session_overhead")["measurements"]
    ]
    return table(["runtime", "the runtime's own call", "`Session.run`", "cost"], rows)


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
    """Time, SQNR, size and seconds to make of the files of a precision, a network a row and a runtime a column."""
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
    time = f"{file['p50_ms']:.2f} ms, {file['ratio']['median']:.2f}" if "ratio" in file else "–"
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


def installations() -> str:
    """Return what an installation for a device takes, unpacked: ONNX Runtime as pip chooses it and an older one, and LiteRT."""
    ort, litert = read("device_install"), read("device_install_litert")
    result = "[result](../benchmarks/results/device_install_litert.json)"
    rows = []
    for found, name, label in (
        (ort, "newest", "what pip chooses (ONNX Runtime {onnxruntime})"),
        (ort, "small", "with `'{pinned}'` beside it"),
        (litert, "newest", f"`[litert]` instead (LiteRT {{litert}}; {result})"),
    ):
        here = found["installs"][name]
        versions = {key.removeprefix("ai-edge-"): _minor(version) for key, version in here["versions"].items()}
        sizes = (here["installed_bytes"], found["aarch64_unpacked"][name]["installed_bytes"])
        rows.append(
            [
                label.format(pinned=" ".join(here["pinned"]), **versions),
                *(f"{size / 1e6:.1f} MB" for size in sizes),
            ]
        )
    return table(["`[ort]`", "x86-64", "aarch64"], rows)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def large_folders() -> str:
    """Return what reading a pool costs, the first time and again, by its number of files."""
    readings = {(row["form"], row["files"], row["reading"]): row for row in read("data_scale")["readings"]}
    rows = []
    for form, files in dict.fromkeys((form, files) for form, files, _ in readings):
        times = [readings.get((form, files, reading)) for reading in ("first", "again")]
        memory = max(row["peak_bytes_an_image"] for row in times if row)
        rows.append([f"{files:,}", form, *map(_seconds, times), f"{memory / 1e3:.1f} kB"])
    return table(["files", "form", "first", "again", "memory an image"], rows)


def _seconds(reading: dict[str, Any] | None) -> str:
    if reading is None:
        return "–"
    seconds = reading["processor_seconds"]
    return f"{decimals(seconds, 2 if seconds < 1 else 1)} s"


def phone_resizing() -> str:
    """Return how far other ways of resizing are from Pillow's, in levels of 255."""
    levels = read("phone_resize")["levels"]
    titles = {"4 neighbors": "4 neighbors", "areas": "averages of areas (OpenCV's `INTER_AREA`)"}
    rows = []
    for name, title in titles.items():
        large, small = levels["224"][name], levels["96"][name]
        rows.append(
            [
                title,
                *(f"{found['mean']:.1f}, {found['largest']}" for found in (large, small)),
                percent(small["over_16"], gap=" "),
            ]
        )
    head = ["", "to 224 px: mean, largest", "to 96 px: mean, largest", "values off by more than 16, at 96 px"]
    return table(head, rows)
