"""Where a model goes: the table of targets, each with the runtime that serves its files.

Every list, default, help text and "install this extra" line is read from here, and code is named by its path ("module:attribute")
and imported on use: this module costs nothing to import and needs the standard library alone. A package adds a target of its own by
one entry point of the group `edgekit.targets`; every process of edgekit finds it there (see CONTRIBUTING.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from edgekit.errors import EdgekitError, ExportError, near
from edgekit.target_types import MARKERS, PRECISIONS, Precision, Runtime, Target

GROUP = "edgekit.targets"  # of the entry points that add targets
DEFAULT_TARGETS = ("onnx", "openvino")  # exported for where none is asked for


ONNXRUNTIME = Runtime(
    name="onnxruntime",
    title="ONNX Runtime",
    module="onnxruntime",
    packages=("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    extra="ort",
    session="edgekit.runtimes.onnxruntime:OnnxRuntimeSession",
    probe="edgekit.runtimes.onnxruntime:devices",
    marker="circle",
    providers=("cpu", "cuda", "tensorrt", "openvino"),
    exclusive=True,
    reads_onnx=True,
    checking={"session.intra_op.allow_spinning": "0"},  # threads that wait need not spin
)
OPENVINO = Runtime(
    name="openvino",
    title="OpenVINO",
    module="openvino",
    packages=("openvino",),
    extra="openvino",
    session="edgekit.runtimes.openvino:OpenVinoSession",
    probe="edgekit.runtimes.openvino:devices",
    marker="square",
    providers=("cpu", "gpu", "npu"),
    reads_onnx=True,
    # With several threads, OpenVINO 2026.4 gives other INT8 logits each time on CPUs without VNNI, for batches of more than a few images
    # (36 dB against float with one thread, 24 to 36 dB with two; FP32 does not differ by a bit).
    exact_threads={"int8": 1},
)
TENSORRT = Runtime(
    name="tensorrt",
    title="TensorRT",
    module="tensorrt",
    packages=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    extra="trt",
    session="edgekit.runtimes.tensorrt.session:open_classic",
    probe="edgekit.runtimes.tensorrt.probe:classic",
    requires="edgekit.runtimes.tensorrt.cuda:driver",
    accelerator="nvidia",
    system="a Jetson has it from JetPack",
    marker="diamond",
)
TENSORRT_RTX = Runtime(
    name="tensorrt-rtx",
    title="TensorRT-RTX",
    module="tensorrt_rtx",
    packages=("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    extra="trt-rtx",
    session="edgekit.runtimes.tensorrt.session:open_rtx",
    probe="edgekit.runtimes.tensorrt.probe:rtx",
    requires="edgekit.runtimes.tensorrt.cuda:driver",
    accelerator="nvidia",
    machines=("x86_64",),
    marker="triangle",
)
LITERT = Runtime(
    name="litert",
    title="LiteRT",
    module="ai_edge_litert",
    packages=("ai-edge-litert",),
    extra="litert",
    session="edgekit.runtimes.litert:LiteRtSession",
    probe="edgekit.runtimes.litert:devices",
    marker="pentagon",
    providers=("cpu",),
)
_BUILT_IN = {
    target.name: target
    for target in (
        Target(
            name="onnx",
            runtime=ONNXRUNTIME,
            precisions=("fp32", "int8"),
            maker="edgekit.export.served:make_onnx",
            makes="ONNX",
            set_batch="edgekit.export.served:fix_onnx_batch",
        ),
        Target(
            name="openvino",
            runtime=OPENVINO,
            precisions=("fp32", "fp16", "int8"),
            defaults=("fp16", "int8"),
            maker="edgekit.export.served:make_openvino",
            makes="OpenVINO IR",
            needs_runtime=True,
            set_batch="edgekit.export.openvino:fix_ir_batch",
        ),
        Target(
            name="trt",
            runtime=TENSORRT,
            precisions=("fp32", "fp16", "int8"),
            defaults=("fp16", "int8"),
            maker="edgekit.export.tensorrt:make_classic",
            makes="ONNX and build plan; the engine is built on the device, on first use",
        ),
        Target(
            name="trt-rtx",
            runtime=TENSORRT_RTX,
            precisions=("fp32", "fp16", "int8"),
            defaults=("fp16", "int8"),
            maker="edgekit.export.tensorrt:make_rtx",
            makes="engine, also without a GPU",
            needs_runtime=True,
            options=("compute_capabilities",),
        ),
        Target(
            name="litert",
            runtime=LITERT,
            precisions=("fp32", "fp16", "int8"),
            defaults=("fp16", "int8"),
            maker="edgekit.export.litert.maker:make",
            makes="TensorFlow Lite model, channels last",
            needs_runtime=True,
            float_model="edgekit.export.litert.maker:float_model",
        ),
    )
}
_BUILT_IN_RUNTIMES = {target.runtime.name: target.runtime for target in _BUILT_IN.values()}


@dataclass(frozen=True)
class Added:
    """A target that an installed package adds; `package` is its name and version."""

    target: Target
    package: str


def built_in() -> dict[str, Target]:
    """edgekit's own targets by name, in their order."""
    return dict(_BUILT_IN)


def every() -> dict[str, Target]:
    """All targets by name: edgekit's own in their order, then those that installed packages add.

    Raises:
        EdgekitError: a package adds one that cannot be used.
    """
    return _BUILT_IN | {name: added.target for name, added in added_targets().items()}


def find(name: str) -> Target:
    """A target by its name.

    Raises:
        ExportError: there is none of that name.
        EdgekitError: a package adds one that cannot be used.
    """
    if name in _BUILT_IN:  # without a look at what is installed
        return _BUILT_IN[name]
    known = every()
    if name not in known:
        raise ExportError(f"unknown target {name}", near(name, known) or f"accepted: {', '.join(known)}")
    return known[name]


def runtimes() -> dict[str, Runtime]:
    """All runtimes by name, in the order of their targets.

    Raises:
        EdgekitError: a package adds a target that cannot be used.
    """
    return {target.runtime.name: target.runtime for target in every().values()}


def find_runtime(name: str) -> Runtime | None:
    """A runtime by its name; None where this machine's edgekit does not know it: a bundle may come from one that knows more.

    Raises:
        EdgekitError: a package adds a target that cannot be used.
    """
    return _BUILT_IN_RUNTIMES.get(name) or runtimes().get(name)  # the former without a look at what is installed


def every_provider() -> list[str]:
    """What some runtime can compute with: the words that `--provider` takes, each once."""
    return list(dict.fromkeys(word for runtime in runtimes().values() for word in runtime.providers))


def extras_of(names: Iterable[str]) -> tuple[str, ...]:
    """The extras of edgekit's wheel that bring some runtimes, each once; a runtime without one adds none."""
    found = [runtime.extra for name in names if (runtime := find_runtime(name)) is not None and runtime.extra]
    return tuple(dict.fromkeys(found))


def runtimes_of(extras: Iterable[str]) -> list[Runtime]:
    """The runtimes that some extras of edgekit's wheel bring; an extra that brings none adds none."""
    wanted = set(extras)
    return [runtime for runtime in _BUILT_IN_RUNTIMES.values() if runtime.extra in wanted]


def rank(runtime: str) -> int:
    """The place of a runtime in the table; one that is unknown comes last."""
    names = list(_BUILT_IN_RUNTIMES) if runtime in _BUILT_IN_RUNTIMES else list(runtimes())
    return names.index(runtime) if runtime in names else len(names)


def title(runtime: str) -> str:
    """What a runtime is called in a report; of one that is unknown, its name."""
    found = find_runtime(runtime)
    return found.title if found else runtime


def marker(runtime: str) -> str:
    """The shape of a runtime in a chart."""
    found = find_runtime(runtime)
    return found.marker if found else MARKERS[-1]


def resolve(path: str) -> Any:
    """What a path of the table names: `module:attribute`, the module imported.

    Raises:
        ImportError: it is not there.
    """
    name, _, attribute = path.partition(":")
    module = importlib.import_module(name)
    if not hasattr(module, attribute):
        raise ImportError(f"{name} has no {attribute}")
    return getattr(module, attribute)


@cache
def added_targets() -> dict[str, Added]:
    """The targets that installed packages add, by name.

    Raises:
        EdgekitError: one cannot be loaded, is no `Target`, or has the name of another target or runtime.
    """
    from importlib.metadata import entry_points

    found: dict[str, Added] = {}
    taken = dict(_BUILT_IN_RUNTIMES)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        package = f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
        where = f"the package {package}, target {point.name}"
        hint = "update that package, or uninstall it"
        try:
            target = point.load()
        except Exception as error:  # of whatever kind: it is somebody else's module
            reason = f"{type(error).__name__}: {error}"
            raise EdgekitError(f"{where}: {point.value} does not load: {reason}", hint) from error
        if not isinstance(target, Target):
            raise EdgekitError(f"{where}: {point.value} is {type(target).__name__}, not edgekit.targets.Target", hint)
        if target.name in _BUILT_IN or target.name in found:
            raise EdgekitError(f"{where}: there is another target of the name {target.name}", hint)
        if taken.setdefault(target.runtime.name, target.runtime) != target.runtime:
            raise EdgekitError(f"{where}: there is another runtime of the name {target.runtime.name}", hint)
        found[target.name] = Added(target, package)
    return found


__all__ = [
    "DEFAULT_TARGETS", "GROUP", "LITERT", "MARKERS", "ONNXRUNTIME", "OPENVINO", "PRECISIONS", "TENSORRT", "TENSORRT_RTX", "Added", "Precision",
    "Runtime", "Target", "added_targets", "built_in", "every", "every_provider", "extras_of", "find", "find_runtime", "marker", "rank", "resolve",
    "runtimes", "runtimes_of", "title",
]  # fmt: skip
