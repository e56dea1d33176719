"""TensorRT's two targets. `trt-rtx`: an engine of TensorRT for RTX, built here, GPU or not. `trt`: for classic TensorRT (every Jetson), whose
engines can only be built on the GPU that they run on: the ONNX and a plan, and the device builds on first use.

An RTX engine runs on no Jetson, and is never called `trt`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit.bundle import BundleFile, Precision, RuntimeName, Variant
from edgekit.errors import RuntimeMissing
from edgekit.export.half import simulated, tensorrt_onnx
from edgekit.export.ranges import Method
from edgekit.export.targets import Sources
from edgekit.export.verify import Reference, class_spread, judge, verify
from edgekit.files import sha256, write_text
from edgekit.progress import progress
from edgekit.runtimes import why_not
from edgekit.runtimes.tensorrt import Batch, BuildOptions, BuildPlan, BuildReport, EngineRecord, build
from edgekit.runtimes.tensorrt.cache import write_record

Target = Literal["trt", "trt-rtx"]
RUNTIMES: dict[Target, RuntimeName] = {"trt": "tensorrt", "trt-rtx": "tensorrt-rtx"}
# Images that the graph is simulated on: node by node on the CPU, FP16 by way of FP32, it takes several times as long as the float graph.
_SIMULATED = 256
_METHODS: tuple[Method, ...] = ("percentile", "entropy", "minmax")  # of the activations' ranges
_BATCH = Batch(min=1, opt=1, max=8)  # of a graph with a free batch axis


def make(target: Target, precision: Precision, sources: Sources) -> Variant:
    """Make a variant for TensorRT in `sources.folder`.

    Where TensorRT and its GPU are here, it is run like any other. Elsewhere it stays `unexecuted`, and its figures are those of the ONNX
    that its engine is built from, run by ONNX Runtime; where those do not pass, it is rejected, since no engine can make up for its graph.

    Raises:
        ExportError: the graph cannot be written, or TensorRT does not take it (naming node, operator and reason).
        RuntimeMissing: TensorRT for RTX is not installed.
    """
    folder = sources.folder
    name = f"model.{target}.{precision}"
    strong = folder / f"{name}.onnx"
    variant = _chosen(f"{target}-{precision}", RUNTIMES[target], precision, strong, sources)
    weak = None
    if target == "trt" and precision != "fp32":
        weak = folder / f"{name}.weak.onnx"
        _onnx(sources, weak, precision, _method(variant), typed=False)
    batch = Batch(min=sources.batch, opt=sources.batch, max=sources.batch) if sources.batch else _BATCH
    if target == "trt":
        files = _plan(strong, weak, precision, batch)
        report = None
    else:
        files, report = _engine(strong, precision, batch, sources.options.compute_capabilities)
    about, judged = _about(report) if report else "", variant.note
    variant = variant.model_copy(
        update={
            "files": [BundleFile.of(folder, path.name) for path in files],
            "note": about,
            "quantization": _with_layers(variant.quantization, report),
        }
    )
    missing = why_not(variant.runtime)
    if missing is None:
        return verify(variant, folder, sources.reference, sources.options.max_drop)
    return _unexecuted(variant, judged, missing)


def _chosen(id_: str, runtime: RuntimeName, precision: Precision, graph: Path, sources: Sources) -> Variant:
    """The variant with the figures of its graph in ONNX Runtime, and the graph in its place.

    For INT8 the ways to take the activations' ranges are tried in order until one passes; where none does, it is the most accurate.
    """
    reference = _sample(sources.reference)
    methods: tuple[Method, ...] = _METHODS if precision == "int8" else _METHODS[:1]
    made: dict[Method, Variant] = {}
    for method in methods:
        told = _onnx(sources, graph, precision, method, typed=True)
        variant = Variant(
            id=id_,
            runtime=runtime,
            precision=precision,
            files=[BundleFile.of(graph.parent, graph.name)],
            quantization={**told, "method": method} if precision == "int8" else None,
            executed=False,
            status="unexecuted",
        )
        logits = _simulate(graph, id_, reference)
        made[method] = judge(variant, logits, None, reference, sources.options.max_drop)
        if made[method].status != "rejected":
            break
    best = min(made.values(), key=lambda v: (v.status == "rejected", v.drop if v.drop is not None else 1.0))
    if best.quantization is not None:
        best.quantization["tried"] = [{"method": m, "status": v.status, "drop": v.drop} for m, v in made.items()]
        _onnx(sources, graph, precision, _method(best), typed=True)
    return best


def _method(variant: Variant) -> Method:
    return variant.quantization["method"] if variant.quantization else _METHODS[0]


def _onnx(sources: Sources, output: Path, precision: Precision, method: Method, *, typed: bool) -> dict[str, Any]:
    """The ONNX of a precision, made once for both targets."""
    made: dict[Any, tuple[Path, dict[str, Any]]] = sources.shared.setdefault("tensorrt", {})
    key = precision, typed, method
    if key not in made:
        path = sources.scratch / f"tensorrt.{precision}.{method}.{'typed' if typed else 'weak'}.onnx"
        source = sources.calibration if precision == "int8" else sources.float_onnx
        made[key] = path, tensorrt_onnx(source, path, precision, typed=typed, method=method)
    path, told = made[key]
    shutil.copyfile(path, output)
    return dict(told)


def _plan(strong: Path, weak: Path | None, precision: Precision, batch: Batch) -> list[Path]:
    plan = BuildPlan(onnx=strong.name, weak_onnx=weak.name if weak else None, precision=precision, batch=batch)
    path = strong.with_suffix(".json")
    write_text(path, plan.model_dump_json(indent=2, by_alias=True) + "\n")
    return [strong, path, *([weak] if weak else [])]


def _engine(
    source: Path, precision: Precision, batch: Batch, capabilities: tuple[str, ...]
) -> tuple[list[Path], BuildReport]:
    options = BuildOptions(flavour="trt-rtx", precision=precision, batch=batch, compute_capabilities=capabilities)
    engine = source.with_suffix(".engine")
    report = build(source, engine, options)
    props = onnx.load(source, load_external_data=False).metadata_props
    record = EngineRecord(
        onnx=source.name,
        onnx_sha256=sha256(source),
        options=options,
        machine={},
        report=report,
        metadata={p.key: p.value for p in props},
    )
    return [engine, write_record(engine, record), source], report


def _about(report: BuildReport) -> str:
    """What a user should know of a build: layers that were meant to be INT8 and are not."""
    lost = [name for name in report.quantized if name not in report.int8]
    if not lost or report.layers_from == "none":
        return ""
    shown = ", ".join(lost[:3]) + (", …" if len(lost) > 3 else "")
    return f"{len(lost)} of {len(report.quantized)} quantised layers are not computed in INT8 ({shown})"


def _with_layers(quantization: dict[str, Any] | None, report: BuildReport | None) -> dict[str, Any] | None:
    if quantization is None or report is None:
        return quantization
    layers = {
        "quantised": len(report.quantized),
        "computed_in_int8": len(report.int8),
        "according_to": report.layers_from,
    }
    return {**quantization, "engine_layers": layers}


def _unexecuted(variant: Variant, judged: str, missing: RuntimeMissing) -> Variant:
    """A variant with its graph's figures as one that no engine has confirmed."""
    said = (
        f"not run here: {missing.message}; its figures are of the ONNX that the engine is built from, run by ONNX Runtime on "
        f"up to {_SIMULATED} images"
    )
    return variant.model_copy(
        update={
            "executed": False,
            "status": "rejected" if variant.status == "rejected" else "unexecuted",
            "note": "; ".join(part for part in (judged, variant.note, said) if part),
        }
    )


def _sample(reference: Reference) -> Reference:
    """At most `_SIMULATED` images of the evaluation set, spread over the classes, the golden ones among them."""
    if len(reference.images) <= _SIMULATED:
        return reference
    classes = reference.logits.argmax(1) if reference.labels is None else reference.labels
    rows = np.unique(np.concatenate([reference.golden, class_spread(classes, _SIMULATED)]))
    labels = None if reference.labels is None else reference.labels[rows]
    golden = np.searchsorted(rows, reference.golden)
    return Reference(reference.images[rows], labels, reference.logits[rows], golden, reference.embedding)


def _simulate(graph: Path, title: str, reference: Reference) -> NDArray[np.float32]:
    run = simulated(graph)
    parts = []
    with progress(f"{title}, its graph", len(reference.images), unit="images") as advance:
        for start in range(0, len(reference.images), 16):
            part = np.ascontiguousarray(reference.images[start : start + 16])
            parts.append(run(part))
            advance(len(part))
    return np.concatenate(parts)
