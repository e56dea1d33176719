"""The only module that uses `tensorrt` and `tensorrt_rtx`: one Python API that differs a little between releases.

Written for the bindings of 8.5 to 11 and of TensorRT for RTX; the tests compare every attribute used here with recorded listings of
10.3, 10.16 and 11.4 and with the real RTX module. Attributes that some releases lack are checked with `hasattr`. Enum members are
used by name, because their values differ between releases (STRONGLY_TYPED is 1 in 10, 0 in 11 and RTX).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.errors import ExportError, RuntimeMissing
from edgekit.runtimes.tensorrt.options import BatchRange, BuildOptions, Flavor, check_capabilities

MODULES: dict[Flavor, str] = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}
TITLES: dict[Flavor, str] = {"trt": "TensorRT", "trt-rtx": "TensorRT for RTX"}
# Warnings after which the engine would not compute what the ONNX file says.
FATAL_WARNINGS = ("Defaulting to INT8",)
_STRONG_FROM = (10, 12)  # classic TensorRT; earlier releases choose kernels more freely with weak typing
_loggers: dict[str, Any] = {}

Log = Callable[[str, str], None]  # severity (VERBOSE, INFO, WARNING, ERROR, INTERNAL_ERROR), message
Step = Callable[[float, str], bool]  # share done, phase -> whether to go on


def load(flavor: Flavor) -> Any:
    """Import the module of a flavor.

    Raises:
        RuntimeMissing: it is not installed, does not load, or is a package of type stubs (`tensorrt-stubs` is importable, and empty).
    """
    name = MODULES[flavor]
    hint = (
        "install edgekit's wheel with the extra [trt-rtx]"
        if flavor == "trt-rtx"
        else "on a Jetson it is part of JetPack (create the virtual environment with --system-site-packages); elsewhere install NVIDIA's packages"
    )
    try:
        trt = importlib.import_module(name)
    except (ImportError, OSError) as error:
        why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not load: {error}"
        raise RuntimeMissing(f"{TITLES[flavor]} ({name}) {why}", hint) from error
    if not hasattr(trt, "Builder"):
        raise RuntimeMissing(f"the module {name} is not TensorRT (it may be type stubs)", hint)
    return trt


def version(trt: Any) -> tuple[int, ...]:
    """Return the numbers of a module's version: (10, 3, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", str(trt.__version__))[:4])


def strongly_typed(flavor: Flavor, release: tuple[int, ...]) -> bool:
    """Whether engines of a release are built with strong typing, where the ONNX file alone decides the types."""
    return flavor == "trt-rtx" or release[:2] >= _STRONG_FROM


def logger(trt: Any) -> Any:
    """Return the process's logger for a module; there is only one, because a second is ignored while a builder or runtime exists.

    Its `sink`, a `Log`, can be replaced; by default messages are dropped.
    """
    name: str = trt.__name__
    if name not in _loggers:

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.sink: Log = lambda severity, message: None

            def log(self, severity: Any, msg: str) -> None:
                self.sink(severity.name, msg)

        _loggers[name] = Logger()
    return _loggers[name]


def member(trt: Any, enum: str, name: str) -> Any:
    """Return an enum member by name; None if this release has no such enum or member."""
    return getattr(getattr(trt, enum, None), name, None)


def create_network(trt: Any, builder: Any, *, strong: bool) -> Any:
    """Create an empty network: with explicit batch if the release needs the flag, and strongly typed if requested."""
    flags = 0
    release = version(trt)
    explicit = member(trt, "NetworkDefinitionCreationFlag", "EXPLICIT_BATCH")
    if explicit is not None and release[0] < 10 and trt.__name__ != MODULES["trt-rtx"]:
        flags |= 1 << int(explicit)
    typed = member(trt, "NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
    if strong and typed is not None:
        flags |= 1 << int(typed)
    return builder.create_network(flags)


def parse(trt: Any, network: Any, model: Path, target: str) -> Any:
    """Read an ONNX file into a network; return the parser, which must live as long as the network.

    Raises:
        ExportError: nodes were refused; the message names each, its operator and the reason.
    """
    parser = trt.OnnxParser(network, logger(trt))
    # From the file, not its bytes: the parser looks for external data beside it.
    read = parser.parse_from_file(str(model))
    refused = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        refused.append(
            fault(
                error.node_name() if hasattr(error, "node_name") else "",  # since 10
                error.node_operator() if hasattr(error, "node_operator") else "",
                error.desc(),
                error.code().name,
            )
        )
    if not read or refused:
        reasons = "; ".join(dict.fromkeys(refused)) or "it is not readable ONNX"
        raise ExportError(f"{target} cannot parse {model.name}: {reasons}", _advice(reasons))
    if not network.num_outputs:  # an empty file parses, to an empty network
        raise ExportError(f"{target} finds no outputs in {model.name}: the file is empty", "export it again")
    return parser


def fault(node: str, operator: str, reason: str, code: str) -> str:
    """Describe a refused node."""
    reason = " ".join(reason.split())
    # The parser's reason repeats the node and the operator, and begins with the C++ expression that was false.
    reason = re.sub(r"In node -?\d+ with name:.*?and operator:.*?\(\w+\): (?:\w+: )?", "", reason)
    reason = re.sub(r"Assertion failed: .*?: ", "", reason)
    reason = reason.removesuffix(".")
    if reason in {"", "false"}:  # a failed assertion without a text
        reason = code.replace("_", " ").lower()
    if not node and not operator:
        return reason[:300]
    return f"node {node or '(unnamed)'}, operator {operator or 'unknown'}: {reason[:300]}"


def _advice(reasons: str) -> str:
    if "parse the ONNX model" in reasons:
        return "the file is damaged or not ONNX: export it again"
    if "import initializer" in reasons:
        return "its weights are in another file: keep it beside the .onnx"
    return "use a network without this node, or export for --target onnx or openvino"


def configure(
    trt: Any, builder: Any, network: Any, options: BuildOptions
) -> tuple[Any, tuple[str, ...], dict[str, list[list[int]]]]:
    """Return the build's configuration, the names of the flags set, and the profile {input: [min, opt, max]}.

    Raises:
        ExportError: this release does not have a flag, or cannot build for the compute capabilities.
    """
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the layers can be reported; costs no speed
    wanted = list(options.flags)
    if not strongly_typed(options.flavor, version(trt)):
        wanted += {"fp32": [], "fp16": ["FP16"], "int8": ["FP16", "INT8"]}[options.precision]
    for name in wanted:
        flag = member(trt, "BuilderFlag", name)
        if flag is None:
            raise ExportError(f"{trt.__name__} {trt.__version__} has no builder flag {name}", "leave out the flag")
        config.set_flag(flag)
    if options.compute_capabilities:
        check_capabilities(options.compute_capabilities)
        if not (hasattr(config, "set_compute_capability") and hasattr(config, "num_compute_capabilities")):
            raise ExportError(
                f"{TITLES[options.flavor]} only builds for this machine's GPU", "leave out --compute-capability"
            )
        config.num_compute_capabilities = len(options.compute_capabilities)
        for i, capability in enumerate(options.compute_capabilities):
            target = member(trt, "ComputeCapability", "SM" + capability.replace(".", ""))
            if target is None or not config.set_compute_capability(target, i):
                raise ExportError(
                    f"{trt.__name__} {trt.__version__} cannot build for compute capability {capability}",
                    "leave it out",
                )
    return config, tuple(dict.fromkeys(wanted)), _add_profile(builder, network, config, options.batch)


def _add_profile(builder: Any, network: Any, config: Any, batch: BatchRange) -> dict[str, list[list[int]]]:
    free = {}
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shape = tuple(tensor.shape)
        if any(side < 0 for side in shape[1:]):
            raise ExportError(f"the input {tensor.name} has free axes besides the batch: {shape}", "fix the image size")
        if shape[0] < 0:
            free[tensor.name] = [[n, *shape[1:]] for n in (batch.min, batch.opt, batch.max)]
    if free:
        profile = builder.create_optimization_profile()
        for name, shapes in free.items():
            profile.set_shape(name, *[tuple(shape) for shape in shapes])
        config.add_optimization_profile(profile)
    return free


def watch(trt: Any, config: Any, step: Step) -> Callable[[], None]:
    """Call `step` during the build; return a function that re-raises an exception of `step`.

    TensorRT drops an exception from its monitor and cancels the build, so it is kept here. Releases without a monitor (8) report nothing.
    """
    if not hasattr(trt, "IProgressMonitor") or not hasattr(config, "progress_monitor"):
        return lambda: None
    raised: list[BaseException] = []

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.open: dict[str, tuple[str | None, int, int]] = {}  # phase -> parent, steps, done

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.open[phase_name] = (parent_phase, max(1, num_steps), 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                parent, steps, _ = self.open.get(phase_name, (None, 1, 0))
                self.open[phase_name] = (parent, steps, step + 1)
                return not raised and step_(share(self.open, phase_name), phase_name)
            except BaseException as error:
                raised.append(error)
                return False

        def phase_finish(self, phase_name: str) -> None:
            self.open.pop(phase_name, None)

    step_ = step
    config.progress_monitor = Monitor()

    def reraise() -> None:
        if raised:
            raise raised[0]

    return reraise


def share(phases: dict[str, tuple[str | None, int, int]], phase: str) -> float:
    """Return a build's progress, from 0 to 1, given {phase: (parent, steps, steps done)} and the phase that advanced last."""
    done = 0.0
    name: str | None = phase
    while name is not None and name in phases:  # a phase is one step of the phase around it
        parent, steps, finished = phases[name]
        done = min(1.0, (finished + done) / steps)
        name = parent
    return done


def dequantized(trt: Any, network: Any) -> tuple[str, ...]:
    """Return the names of a parsed network's convolutions and matrix products whose input comes from a DequantizeLinear."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    producers = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    passing = {member(trt, "LayerType", name) for name in ("CAST", "SHUFFLE", "IDENTITY")} - {None}
    names = []
    for layer in layers:
        if layer.type in {trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY}:
            before = producers.get(layer.get_input(0).name)
            while before is not None and before.type in passing:
                before = producers.get(before.get_input(0).name)
            if before is not None and before.type == trt.LayerType.DEQUANTIZE:
                names.append(layer.name)
    return tuple(names)


def timing_cache(config: Any, content: bytes | None) -> Callable[[], bytes]:
    """Give a build the kernel times of earlier builds on this machine; return a function that serializes all times known after it."""
    cache = config.create_timing_cache(content or b"")
    config.set_timing_cache(cache, ignore_mismatch=False)

    def serialized() -> bytes:
        cache = config.get_timing_cache()
        return bytes(cache.serialize())

    return serialized


def build(builder: Any, network: Any, config: Any) -> bytes | None:
    """Build and serialize the engine; None if TensorRT failed or was cancelled, with the reason in its log."""
    plan = builder.build_serialized_network(network, config)
    return None if plan is None else bytes(plan)


def inspect(trt: Any, engine: Any) -> str:
    """Return the layers of a deserialized engine as the engine inspector's JSON."""
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def profiler(trt: Any, times: list[tuple[str, float]]) -> Any:
    """Return a profiler for an execution context that appends (layer, milliseconds) to `times`."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.append((layer_name, ms))

    return Profiler()
