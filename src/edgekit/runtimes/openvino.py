"""OpenVINO on a CPU, GPU or NPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from edgekit.errors import BundleError, EdgekitError, RuntimeMissing
from edgekit.processors import narrowed_threads
from edgekit.runtimes.model_files import ModelFiles, files_of
from edgekit.runtimes.session import (
    PROVIDER,
    ProfiledNode,
    check_graph,
    check_images,
    check_settings,
    fold_layers,
    wrong_images,
)
from edgekit.runtimes.streams import OnLogits, Streams
from edgekit.targets import OPENVINO
from edgekit.tasks import Task

# A graph compiled for a fixed batch size runs a small model 5 to 15 % faster than one with a free batch axis. So the first few batch
# sizes get their own graphs; all others share one with a free axis.
FIXED_SIZES = 4
# The type for computing float layers. OpenVINO's default depends on the machine (bf16 where the CPU has it, which is less
# exact and even slower there), so it is always set: by the variant, otherwise to f32.
PRECISION = "INFERENCE_PRECISION_HINT"
_TYPES = {"f32": ov.Type.f32, "f16": ov.Type.f16, "bf16": ov.Type.bf16}
_THREADS, _HINT, _STREAMS = "INFERENCE_NUM_THREADS", "PERFORMANCE_HINT", "NUM_STREAMS"


class OpenVinoSession:
    """A session of OpenVINO, tuned for the latency of one request (see `edgekit.runtimes.Session`).

    Args:
        model: the .xml of an IR with its .bin beside it, or an .onnx file; by its path or as files that are checked when they are opened.
        threads: inference threads on a CPU; 0: OpenVINO decides, but no more than the processors that this process may use.
        settings: takes `provider` (cpu, the default, gpu or npu) and `INFERENCE_PRECISION_HINT`: f32 (the default), f16 or bf16.

    Raises:
        BundleError: OpenVINO cannot load the file, or this machine does not support the requested precision.
        RuntimeMissing: this machine does not have the requested device.
    """

    runtime = "openvino"

    def __init__(self, model: Path | ModelFiles, threads: int, settings: Mapping[str, str]) -> None:
        files = files_of(model)
        model = files.path
        check_settings(self.runtime, settings, [PROVIDER, PRECISION])
        precision = settings.get(PRECISION, "f32")
        if precision not in _TYPES:
            raise BundleError(f"{model}: {PRECISION} is {precision}, not one of {', '.join(_TYPES)}", "export it again")
        self._config: dict[str, Any] = {PRECISION: _TYPES[precision], _HINT: "LATENCY"}
        self._core = ov.Core()
        self._device = _device(self._core, model, settings.get(PROVIDER, "cpu"))
        if self._device == "CPU" and (threads := threads or narrowed_threads()):
            self._config[_THREADS] = threads
        try:
            self._graph: Any = _read(self._core, files)
            fold_biases(self._graph)
            inputs = [(x.get_any_name(), _dtype(x.get_element_type()), _shape(x)) for x in self._graph.inputs]
            self._task = files.task
            self.outputs = [_output_name(x, self._task) for x in self._graph.outputs]
            _, self._shape, self.batch = check_graph(model, inputs, self.outputs, self._task)
            compiled = self._compile(self.batch or 1)
        except EdgekitError:
            raise
        except Exception as error:  # mostly RuntimeError; for names that are no UTF-8, UnicodeDecodeError
            raise BundleError(f"{model}: OpenVINO cannot load it: {error}", "export the bundle again") from error
        actual = _name(compiled.get_property(PRECISION))
        if actual != precision:
            raise BundleError(
                f"{model}: OpenVINO computes in {actual} on this machine, not in {precision}",
                "use another variant of the bundle on this machine",
            )
        self._calls = {self.batch or 1: _call_of(compiled, self._task)}  # by batch size; 0 accepts any
        self._fixed_sizes = FIXED_SIZES
        self.version: str = ov.__version__
        self.settings = {PRECISION: actual, **_reported_settings(compiled)}

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the main output (n, …) float32 of images (n, H, W, 3) uint8 (see `Session.run`)."""
        # One combined test keeps valid batches fast; the cause is analyzed only for invalid ones.
        if (
            not isinstance(images, np.ndarray)
            or images.dtype != np.uint8
            or images.shape[1:] != self._shape
            or len(images) != (self.batch or len(images) or 1)
        ):
            raise wrong_images(images, self._shape, self.batch)
        infer, output = self._calls.get(len(images)) or self._call(len(images))
        # The input's memory is shared, which is safe because the call returns after the inference; the output is a copy.
        found: NDArray[np.float32] = infer(images, share_inputs=True)[output]
        return found

    def run_all(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every output by its name (see `Session.run_all`)."""
        check_images(images, self._shape, self.batch)
        infer, _ = self._calls.get(len(images)) or self._call(len(images))
        return dict(zip(self.outputs, infer(images, share_inputs=True).to_tuple(), strict=True))

    def _call(self, batch: int) -> tuple[Any, Any]:
        """Return the inference function and the key of the main output for a batch size that has no graph yet."""
        size = batch if len(self._calls) < self._fixed_sizes else 0
        if size not in self._calls:
            self._calls[size] = _call_of(self._compile(size), self._task)
        return self._calls[size]

    def share_graph(self) -> None:
        """Compile no more graphs for single batch sizes (see `Sharing.share_graph`)."""
        self._fixed_sizes = 0

    def streams(self, count: int = 0, batch: int = 1) -> Streams:
        """Return OpenVINO's queue of asynchronous requests (see `Streaming.streams`); with 0 streams, its throughput hint chooses
        their number."""
        config = {**self._config, _HINT: "THROUGHPUT", **({_STREAMS: count} if count else {})}
        return OpenVinoStreams(self, self._compile(self.batch or batch, config), count)

    def profile(self, images: NDArray[np.uint8], runs: int, warmup: int) -> list[ProfiledNode]:
        """Return the time of every node over `runs` runs after `warmup` others, from OpenVINO's performance counters.

        Fused nodes have the name of the last one; the counters are whole microseconds.
        """
        check_images(images, self._shape, self.batch)
        request = self._compile(len(images), {**self._config, "PERF_COUNT": True}).create_infer_request()
        executions: list[tuple[str, str, int]] = []
        for _ in range(warmup + runs):
            request.infer(images, share_inputs=True)
            executions += [
                (node.node_name, node.node_type, round(node.real_time.total_seconds() * 1e9))
                for node in request.profiling_info
                if node.status == ov.ProfilingInfo.Status.EXECUTED
            ]
        return fold_layers(executions, warmup + runs, warmup)

    def _compile(self, batch: int, config: Mapping[str, Any] | None = None) -> Any:
        """Compile the graph for one batch size, or for any (0)."""
        graph = self._graph
        if batch and not self.batch:
            graph = graph.clone()
            graph.reshape([batch, *self._shape])
        return self._core.compile_model(graph, self._device, dict(config or self._config))

    def close(self) -> None:
        """Release the model."""
        self._calls.clear()
        self._graph = None


class OpenVinoStreams:
    """The asynchronous requests of a compiled graph (see `Streams`); made by `OpenVinoSession.streams`.

    Args:
        session: checks the images.
        compiled: the graph, compiled for streams.
        requests: maximum number in flight; 0: OpenVINO decides.
    """

    def __init__(self, session: OpenVinoSession, compiled: Any, requests: int) -> None:
        self._check = (session._shape, session.batch)
        self._queue: Any = ov.AsyncInferQueue(compiled, requests)
        self._output: int = session.outputs.index(session._task.main)
        self._error: BaseException | None = None
        self._queue.set_callback(self._finished)
        self.count = len(self._queue)
        self.settings = {**session.settings, **_reported_settings(compiled), "streams": str(self.count)}

    def _finished(self, request: Any, userdata: tuple[Any, OnLogits]) -> None:
        try:
            userdata[1](request.get_output_tensor(self._output).data.copy())
        except BaseException as error:  # raised in `wait` or `submit`, because OpenVINO would replace the message
            self._error = self._error or error

    def ready(self) -> None:
        """Return when a request is free (see `Streams.ready`)."""
        self._queue.get_idle_request_id()

    def submit(self, images: NDArray[np.uint8], done: OnLogits) -> None:
        """Start a run (see `Streams.submit`)."""
        self._raise()
        check_images(images, *self._check)
        # The images are kept with the request, which shares their memory.
        self._queue.start_async(images, (images, done), share_inputs=True)

    def wait(self) -> None:
        """Return when no run is in flight (see `Streams.wait`)."""
        self._queue.wait_all()
        self._raise()

    def close(self) -> None:
        """Wait, then release the model."""
        self._queue.wait_all()
        self._queue = None

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def fold_biases(graph: Any) -> int:
    """Replace reshapes of constants by constants, in place, and return their number.

    OpenVINO reads the bias of an ONNX convolution as a constant reshaped to (1, c, 1, 1) by the rank of the convolution's output, so
    it takes the shape between the convolution and its sum with the bias. If the batch axis is free and a later node needs the batch
    size, OpenVINO 2026.4 reads it at that place and then loses the bias of a quantized convolution: the graph silently gives wrong
    results until it is reshaped to a fixed batch. Without that shape, every form gives the same results (docs/runtimes.md).

    Args:
        graph: an `openvino.Model`.
    """
    count = 0
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Reshape" or not node.get_output_partial_shape(0).is_static:
            continue
        value, pattern = (node.input_value(i).get_node() for i in range(2))
        constant = value.get_type_name() == "Constant" and _name(value.get_element_type()) == "f32"
        if constant and pattern.get_type_name() != "Constant":
            folded = ov.op.Constant(value.get_data().reshape(tuple(node.get_output_shape(0))))
            node.output(0).replace(folded.output(0))
            count += 1
    return count


def _read(core: Any, files: ModelFiles) -> Any:
    """Read a model's graph; its weights stay memory-mapped, for a bundle from a private copy."""
    name = files.path.name
    weights = f"{files.path.stem}.bin"
    names = [name, weights] if files.path.suffix == ".xml" and files.has(weights) else [name]
    with files.opened(*names) as paths:
        try:
            return core.read_model(*paths)
        except RuntimeError as error:
            raise RuntimeError(str(error).replace(paths[0], str(files.path))) from error


def _device(core: Any, model: Path, name: str) -> str:
    """Return OpenVINO's name of a device that this machine has; a missing device is never replaced by another."""
    if name not in OPENVINO.providers:
        known = ", ".join(OPENVINO.providers)
        raise BundleError(f"{model}: unknown provider {name} of openvino", f"choose {known}")
    available = core.available_devices  # GPU.0, GPU.1, … if there are several
    if not any(device.split(".")[0] == name.upper() for device in available):
        raise RuntimeMissing(
            f"{model}: OpenVINO does not find the device {name.upper()} on this machine, only {', '.join(available)}",
            "install the device's driver, or leave out --provider",
        )
    return name.upper()


def devices() -> list[str]:
    """Return the devices that OpenVINO finds on this machine, for `edgekit doctor`."""
    core = ov.Core()
    return [f"{device} ({core.get_property(device, 'FULL_DEVICE_NAME').strip()})" for device in core.available_devices]


def _reported_settings(compiled: Any) -> dict[str, str]:
    """Return the settings that a compiled graph reports; each device reports only those that it supports."""
    supported = set(compiled.get_property("SUPPORTED_PROPERTIES"))
    settings = {"device": ", ".join(compiled.get_property("EXECUTION_DEVICES"))}
    for key in (_HINT, _THREADS, _STREAMS):
        if key in supported:
            value = compiled.get_property(key)
            settings[key] = getattr(value, "name", None) or str(value)
    return settings


def _call_of(compiled: Any, task: Task) -> tuple[Any, Any]:
    return compiled.create_infer_request().infer, compiled.output(task.main)


def _output_name(output: Any, task: Task) -> str:
    """Return the name under which an output was exported; conversions add other names."""
    names = output.get_names()
    return next((name for name in (*task.required, *task.optional) if name in names), output.get_any_name())


def _name(kind: Any) -> str:
    """Return OpenVINO's name of an element type: f32, u8, …"""
    name: str = kind.get_type_name()
    return name


def _dtype(kind: Any) -> str:
    """Return NumPy's name of an element type, or OpenVINO's if NumPy has none."""
    return _name(kind) if kind == ov.Type.bf16 else str(kind.to_dtype())


def _shape(node: Any) -> list[int | None]:
    return [None if side.is_dynamic else side.get_length() for side in node.get_partial_shape()]
