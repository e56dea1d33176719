"""Tables of INT8: configurations, the accuracy search, and peers."""

from __future__ import annotations

from typing import Any

from tools.site.tables.formats import milliseconds, read, table

from edgekit.shares import difference, hundredths, percent

_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_CONFIGURATIONS = {
    "8-bit": "8-bit weights",
    "7-bit": "**7-bit weights**",
    "unsigned 8-bit": "unsigned 8-bit weights",
    "nncf": "NNCF with overflow fix",
}


def int8_configurations() -> str:
    """Return what each configuration of INT8 loses on a CPU without VNNI, and its speed beside the same runtime in float."""
    measured = read("int8_ways")["measured"]
    rows, last = [], ""
    for runtime, title in _RUNTIMES.items():
        for row in (row for row in measured if row["runtime"] == runtime):
            rows.append(
                [
                    "" if title == last else title,
                    _CONFIGURATIONS[row["way"]],
                    _lost(row["drop"]),
                    percent(row["agreement"], gap=" "),
                    f"{row['p50_ms']:.3f}",
                    f"{row['times_faster_than_float']:.2f}",
                ]
            )
            last = title
    return table(["runtime", "configuration", "drop, points", "agreement", "p50, ms", "× float"], rows)


_STUDENTS = {
    "as trained": "as trained",
    "channels imbalanced between layers": "between layers",
    "channels imbalanced in the residual streams": "in the streams",
}
_TARGETS = {"onnx-int8": "ONNX Runtime", "openvino-int8": "OpenVINO", "trt-int8": "TensorRT's graph, simulated"}


def int8_recovery() -> str:
    """Return the points that INT8 loses with calibration alone, and after the accuracy search."""
    measured = read("int8_recovery")["measured"]
    rows = []
    for student, title in _STUDENTS.items():
        for i, (target, runtime) in enumerate(_TARGETS.items()):
            plain, search = (measured[student][target][kind] for kind in ("plain", "ladder"))
            rows.append(
                [
                    "" if i else title,
                    runtime,
                    _lost(plain["drop"]),
                    _lost(search["drop"]),
                    _strategy(search),
                    f"{search['seconds_of_the_rungs']:.0f}",
                    f"{milliseconds(search['speed']['p50_ms'])} ms" if search["speed"] else "not run",
                ]
            )
    return table(
        ["channels", "target", "calibration alone", "accuracy search", "strategy", "seconds", "p50 of INT8"], rows
    )


def int8_peers() -> str:
    """Return INT8 in ONNX Runtime beside Optimum's, of the same float file."""
    rows = []
    for network, file in (
        ("ResNet-10 ×0.25", "export_peers_resnet10"),
        ("MobileNetV3-small", "export_peers_mobilenetv3"),
    ):
        measured = read(file)["rows"]
        reference = next(row for row in measured if row["name"] == "float")
        for i, row in enumerate(measured):
            drop = "" if row is reference else _minus(difference(reference["accuracy"], row["accuracy"]))
            seconds = f"{row['seconds']:.1f}" if "seconds" in row else ""
            rows.append(
                [
                    "" if i else network,
                    row["name"],
                    f"{row['bytes'] / 1e3:,.0f} kB",
                    f"{row['p50_ms']:.3f} ms",
                    drop,
                    seconds + (f" for {row['files_made']} files" if "files_made" in row else ""),
                ]
            )
    return table(["network", "file", "size", "p50", "drop, points", "seconds of quantizing"], rows)


def _lost(share: float) -> str:
    """Return the points that were lost, in bold if they are more than the 1 that `--max-drop` allows."""
    return f"**{_minus(share)}**" if share > 0.01 else _minus(share)


def _minus(share: float) -> str:
    return hundredths(share, 2).replace("-", "−")


def _strategy(result: dict[str, Any]) -> str:
    """Return the strategy that passed, and what it did beyond choosing bits and ranges."""
    name, done = (text.replace("equalis", "equaliz") for text in (result["rung"], result["way"]))
    more = ", ".join(done.split(", ")[2:]).replace(f" {name}", "")
    return f"{name}: {more}" if more else name
