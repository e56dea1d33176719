"""Tables of anomaly detection, from `benchmarks/results/anomaly.json`."""

from __future__ import annotations

from tools.site.tables.formats import milliseconds, percents, points, read, table

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
                f"{milliseconds(timed['ms'])} ms" if timed else "–",
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
        rows.append([name, "edgekit", *ours, f"{points(cell['difference'])} ({points(low)} to {points(high)})"])
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
            ["" if name == last else name, percents(row["contamination"], 0) + " %", f"{row['trim']:g}", *values]
        )
        last = name
    return table(["method", "defects in the pool", "`trim`", "AUROC", "pixel AUROC", "PRO"], rows)
