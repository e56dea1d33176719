"""The makers of the two TensorRT targets.

- `trt-rtx`: an engine of TensorRT for RTX, built at export, with or without a GPU.
- `trt`: classic TensorRT (every Jetson). Its engines must be built on the GPU that runs them: the bundle holds the ONNX and a build plan, and
  the device builds the engine on first use.

An RTX engine runs on no Jetson and is never named `trt`.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import BundleFile, Precision, Variant
from edgekit.errors import RuntimeMissing
from edgekit.export.half import check_range, simulated, tensorrt_onnx
from edgekit.export.inputs import Sources
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs, class_spread, judge, unverified, verify
from edgekit.files import copy_file, sha256, write_text
from edgekit.onnx_graph.files import read_onnx
from edgekit.progress import progress
from edgekit.quantization import EngineLayers, Quantization
from edgekit.quantize.fidelity import Fidelity
from edgekit.quantize.qdq import SIGNED
from edgekit.quantize.quantizer import QuantizationConfig, Quantizer
from edgekit.quantize.ranges import METHODS, batches
from edgekit.quantize.search import search_accuracy
from edgekit.runtimes import why_not
from edgekit.runtimes.tensorrt import BatchRange, BuildOptions, BuildPlan, BuildReport, EngineRecord, build
from edgekit.runtimes.tensorrt.cache import write_record
from edgekit.targets import find
from edgekit.tasks import Outputs

Target = Literal["trt", "trt-rtx"]
# Numbers of images for the simulation, the golden ones included. Node by node on the CPU, with FP16 computed in FP32, it takes several times
# as long as the float graph. There are enough images that a loss of one point is not chance, up to about ten million pixels: INT8 that trades
# errors on three images in a hundred is off by one point by chance on 256 images, and by a third of a point on 2,048.
_FEWEST, _MOST, _PIXELS = 256, 2048, 2**23
_BATCH = BatchRange(min=1, opt=1, max=8)  # profile of a graph with a free batch axis
_GRAPH, _PAIRS = "graph.onnx", "pairs.onnx"


def make_classic(precision: Precision, sources: Sources) -> Variant:
    """Make a variant for classic TensorRT (a maker); see `make`."""
    return make("trt", precision, sources)


def make_rtx(precision: Precision, sources: Sources) -> Variant:
    """Make a variant for TensorRT for RTX; see `make`."""
    return make("trt-rtx", precision, sources)


def make(target: Target, precision: Precision, sources: Sources) -> Variant:
    """Make a variant for TensorRT in `sources.folder`.

    With TensorRT and a GPU on this machine, the variant is verified like any other. Otherwise it stays `unexecuted`, and its figures are
    those of the ONNX that its engine is built from, run by ONNX Runtime. If these do not pass, it is rejected: an engine cannot be better than its
    graph.

    Raises:
        ExportError: the graph cannot be written, or TensorRT refuses it (names node, operator and reason).
        RuntimeMissing: TensorRT for RTX is not installed.
    """
    folder = sources.folder
    name = f"model.{target}.{precision}"
    graphs = _graphs(precision, sources)
    strong = folder / f"{name}.onnx"
    copy_file(graphs.typed, strong)
    batch = BatchRange(min=sources.batch, opt=sources.batch, max=sources.batch) if sources.batch else _BATCH
    if target == "trt":
        weak = folder / f"{name}.weak.onnx" if precision != "fp32" else None
        if weak is not None:
            tensorrt_onnx(graphs.untyped, weak, precision, typed=False)
        files = _plan(strong, weak, precision, batch)
        report = None
    else:
        files, report = _engine(strong, precision, batch, sources.options.compute_capabilities)
    variant = graphs.variant.model_copy(
        update={
            "id": f"{target}-{precision}",
            "runtime": find(target).runtime.name,
            "files": [BundleFile.of(folder, path.name) for path in files],
            "note": _about(report) if report else "",
            "quantization": _with_layers(graphs.variant.quantization, report),
        }
    )
    missing = why_not(variant.runtime)
    if missing is None:
        return verify(variant, folder, sources.reference, sources.options.bounds)
    return _unexecuted(variant, graphs, missing)


@dataclass(frozen=True)
class _Graphs:
    """The ONNX files of a precision, shared by both targets.

    Attributes:
        typed: the graph for a strongly typed builder.
        untyped: the graph that it was made from: the float graph; for int8 the Q/DQ graph.
        variant: a variant with the figures of `typed` in ONNX Runtime.
        images: number of images behind these figures.
    """

    typed: Path
    untyped: Path
    variant: Variant
    images: int


def _graphs(precision: Precision, sources: Sources) -> _Graphs:
    return sources.shared.once(_Graphs, lambda: _new_graphs(precision, sources), precision)


def _new_graphs(precision: Precision, sources: Sources) -> _Graphs:
    folder = sources.scratch / f"tensorrt-{precision}"
    folder.mkdir()
    reference = _sample(sources.reference)
    if precision == "int8":
        backend = _Simulated("tensorrt", sources.quantizer, reference, sources.options.bounds)
        variant = search_accuracy(backend, folder, recover=sources.options.recover, budget=sources.budget)
        untyped = folder / _PAIRS
    else:
        untyped = sources.float_onnx
        tensorrt_onnx(untyped, folder / _GRAPH, precision)
        variant = _judged(_variant(folder, precision, (_GRAPH,)), folder / _GRAPH, reference, sources.options.bounds)
    return _Graphs(folder / _GRAPH, untyped, variant, len(reference.images))


@dataclass
class _Simulated:
    """TensorRT in the accuracy search (a `quantize.backend.Backend`): ONNX Runtime runs the Q/DQ graph, not TensorRT's kernels.

    Attributes:
        target: used in the names of temporary folders and in messages.
        quantizer: makes the quantized graphs.
        reference: the trained model's outputs for the simulated images.
        bounds: the bounds that a variant must meet.
    """

    target: str
    quantizer: Quantizer
    reference: ReferenceOutputs
    bounds: AccuracyBounds

    def groups(self) -> list[list[QuantizationConfig]]:
        """The signed, symmetric scheme with each method."""
        return [[QuantizationConfig(SIGNED, method) for method in METHODS]]

    def last(self, best: QuantizationConfig | None) -> QuantizationConfig | None:
        """No fallback for TensorRT."""
        return None

    def make(self, config: QuantizationConfig, folder: Path) -> Variant:
        """Write the graph of a configuration, and beside it the Q/DQ graph with the rest in FP32."""
        quantization = self.quantizer.qdq(config, folder / _PAIRS)
        calibration = self.quantizer.calibration(config)
        assert calibration is not None
        check_range(calibration)
        tensorrt_onnx(folder / _PAIRS, folder / _GRAPH, "int8")
        how = {"rest": "fp16", "configuration": config.name, "judged_by": "its ONNX in ONNX Runtime"}
        return _variant(folder, "int8", (_GRAPH, _PAIRS), quantization.model_copy(update=how))

    def fidelity(self, variant: Variant, folder: Path) -> Fidelity | None:
        """Compare the Q/DQ graph with the rest in FP32: several times as fast as with FP16, and it ranks candidates the same."""
        return self.quantizer.judge(lambda images: _answers(folder / _PAIRS, "", images, self.reference.task.required))

    def verify(self, variant: Variant, folder: Path) -> Variant:
        """Verify the graph that the builder gets."""
        return _judged(variant, folder / _GRAPH, self.reference, self.bounds)


def _variant(
    folder: Path, precision: Precision, files: tuple[str, ...], quantization: Quantization | None = None
) -> Variant:
    """The common start of both targets' variants of a precision."""
    return unverified("tensorrt", "tensorrt", precision, folder, files, quantization=quantization)


def _plan(strong: Path, weak: Path | None, precision: Precision, batch: BatchRange) -> list[Path]:
    plan = BuildPlan(onnx=strong.name, weak_onnx=weak.name if weak else None, precision=precision, batch=batch)
    path = strong.with_suffix(".json")
    write_text(path, plan.model_dump_json(indent=2, by_alias=True) + "\n")
    return [strong, path, *([weak] if weak else [])]


def _engine(
    source: Path, precision: Precision, batch: BatchRange, capabilities: tuple[str, ...]
) -> tuple[list[Path], BuildReport]:
    options = BuildOptions(flavor="trt-rtx", precision=precision, batch=batch, compute_capabilities=capabilities)
    engine = source.with_suffix(".engine")
    report = build(source, engine, options)
    props = read_onnx(source, external=False).metadata_props
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
    """A note on a build: quantized layers that the engine does not compute in INT8."""
    lost = [name for name in report.quantized if name not in report.int8]
    if not lost or report.layers_from == "none":
        return ""
    shown = ", ".join(lost[:3]) + (", …" if len(lost) > 3 else "")
    return f"{len(lost)} of {len(report.quantized)} quantized layers are not computed in INT8 ({shown})"


def _with_layers(quantization: Quantization | None, report: BuildReport | None) -> Quantization | None:
    if quantization is None or report is None:
        return quantization
    layers = EngineLayers(
        quantized=len(report.quantized), computed_in_int8=len(report.int8), according_to=report.layers_from
    )
    return quantization.model_copy(update={"engine_layers": layers})


def _unexecuted(variant: Variant, graphs: _Graphs, missing: RuntimeMissing) -> Variant:
    """The variant with its graph's figures, marked as not confirmed by an engine."""
    note = (
        f"not run here: {missing.message}; its figures are those of the ONNX that the engine is built from, run by ONNX Runtime on "
        f"{graphs.images:,} images"
    )
    return variant.model_copy(
        update={
            "executed": False,
            "status": "rejected" if variant.status == "rejected" else "unexecuted",
            "note": "; ".join(part for part in (graphs.variant.note, variant.note, note) if part),
        }
    )


def _sample(reference: ReferenceOutputs) -> ReferenceOutputs:
    """The images of the evaluation set that the graph is simulated on, spread over the task's groups, the golden ones among them."""
    count = min(_MOST, max(_FEWEST, _PIXELS // (reference.images.shape[1] * reference.images.shape[2])))
    if len(reference.images) <= count:
        return reference
    groups = reference.task.groups(reference.outputs, reference.labels)
    chosen = np.unique(np.concatenate([reference.golden, class_spread(groups, count)]))
    return reference.subset(chosen)


def _judged(variant: Variant, graph: Path, reference: ReferenceOutputs, bounds: AccuracyBounds) -> Variant:
    """A variant with what is found about its graph, simulated on all images, and on the golden ones for further outputs."""
    outputs = _answers(graph, f"tensorrt-{variant.precision}, its graph", reference.images, reference.task.required)
    further = (
        _answers(graph, "", reference.images[reference.golden], tuple(reference.further)) if reference.further else {}
    )
    return judge(variant, outputs, further, reference, bounds)


def _answers(graph: Path, title: str, images: NDArray[np.uint8], outputs: tuple[str, ...]) -> Outputs:
    """Some outputs that a graph gives for images, with a progress bar where it has a title."""
    run = simulated(graph, outputs)
    shown = progress(title, len(images), unit="images") if title else nullcontext(lambda steps: None)
    parts = []
    with shown as advance:
        for part in batches(images):
            parts.append(run(part))
            advance(len(part))
    return {name: np.concatenate([part[name] for part in parts]) for name in outputs}
