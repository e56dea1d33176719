"""Sessions of TensorRT and TensorRT for RTX on an NVIDIA GPU."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edgekit.errors import BundleError
from edgekit.foreign import Unreadable, parse_json
from edgekit.runtimes.model_files import ModelFiles, files_of
from edgekit.runtimes.session import (
    ProfiledNode,
    StageTimes,
    check_graph,
    check_images,
    check_settings,
    fold_layers,
    wrong_images,
)
from edgekit.runtimes.tensorrt import adapter, cuda
from edgekit.runtimes.tensorrt.cache import RECORD, EngineCache, this_machine
from edgekit.runtimes.tensorrt.engine import Engine, release_of
from edgekit.runtimes.tensorrt.options import BuildOptions, BuildPlan, EngineRecord, Flavor
from edgekit.tasks import Task

# Whether a run (copy in, compute, copy out) is recorded once as a CUDA graph and replayed: one launch instead of one per kernel.
GRAPH = "cuda_graph"
DEVICE = "gpu"  # the GPU's number, from 0
_Description = TypeVar("_Description", BuildPlan, EngineRecord)
_FLAVORS: dict[str, Flavor] = {"tensorrt": "trt", "tensorrt-rtx": "trt-rtx"}


class _Buffer(NamedTuple):
    """A tensor's memory: on the GPU, and pinned on the host as an array for the largest batch."""

    name: str
    device: int
    host: NDArray[Any]


class TensorRtSession:
    """A session of TensorRT (see `edgekit.runtimes.Session`): addresses bound once, pinned host memory, one CUDA graph.

    From an .onnx file, an engine is built on first use, as the plan beside the file (NAME.json) says, and cached (see `EngineCache`). An
    .engine file is used if this machine's TensorRT accepts it; otherwise it is built again from the ONNX file that its record names.

    A batch larger than the engine's largest is run in parts. The CUDA graph is for the last batch size that ran twice; the first run of
    another size has no graph.

    Args:
        runtime: `tensorrt` or `tensorrt-rtx`.
        model: the .onnx or .engine, by its path or as files that are checked when they are read.
        threads: ignored, as the GPU does the work.
        settings: takes `cuda_graph` ("1", the default, or "0") and `gpu` (a number, default "0").
        engines: the cache of built engines.

    Raises:
        RuntimeMissing: this flavor of TensorRT is not installed, or there is no GPU.
        BundleError: the engine cannot be built or loaded, or is not one of edgekit's graphs.
    """

    def __init__(
        self,
        runtime: str,
        model: Path | ModelFiles,
        threads: int,
        settings: Mapping[str, str],
        engines: EngineCache | None = None,
    ) -> None:
        files = files_of(model)
        check_settings(runtime, settings, [GRAPH, DEVICE])
        self.runtime = runtime
        flavor = _FLAVORS[runtime]
        trt = adapter.load(flavor)
        self.version = str(trt.__version__)
        self._stream = cuda.Stream(_number(files.path, settings.get(DEVICE, "0")))
        try:
            self._engine = _load(flavor, self.version, files, self._stream.gpu, engines or EngineCache())
            self._bind(files.path, files.task)
        except BaseException:
            self._stream.close()
            raise
        self._graphs = settings.get(GRAPH, "1") == "1" and self._engine.capturable(self._stream.handle)
        self._batch_set = 0  # the batch size that was set last
        self._runs = 0  # of that size
        self._recorded = False  # whether the graph is for that size
        self.settings = {
            "gpu": self._stream.gpu.name,
            "compute_capability": self._stream.gpu.capability,
            "cuda": cuda.driver().version(),
            # Three settings that differ between releases of trtexec.
            "transfers": "within the run, from and to pinned memory",
            GRAPH: "1" if self._graphs else "0",
            "wait": "cuStreamSynchronize, the driver's default (spins where processors outnumber contexts)",
        }

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
        output: NDArray[np.float32] = self._run(images, [self._main])[0]
        return output

    def run_all(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every output by its name (see `Session.run_all`)."""
        check_images(images, self._shape, self.batch)
        return dict(zip(self.outputs, self._run(images, self._results), strict=True))

    def stages(self, images: NDArray[np.uint8]) -> StageTimes | None:
        """Time one run of at most the engine's largest batch, with separate transfers and without the CUDA graph."""
        check_images(images, self._shape, self.batch)
        images = images[: self._largest]
        self._set_batch(len(images))
        np.copyto(self._input.host[: len(images)], images)
        marks = [time.perf_counter_ns()]
        for part in (self._copy_in, self._compute, self._copy_out):
            part(len(images))
            self._stream.wait()
            marks.append(time.perf_counter_ns())
        return StageTimes(marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2])

    def profile(self, images: NDArray[np.uint8], runs: int, warmup: int) -> list[ProfiledNode]:
        """Return the time of every layer over `runs` runs after `warmup` others, from TensorRT's profiler."""
        check_images(images, self._shape, self.batch)
        times: list[tuple[str, float]] = []
        self._engine.time_layers(times)
        try:
            for _ in range(warmup + runs):
                self.stages(images)
        finally:
            self._engine.time_layers(None)
        return fold_layers([(name, "", round(ms * 1e6)) for name, ms in times], warmup + runs, warmup)

    def close(self) -> None:
        """Release the engine and its memory."""
        self._engine.close()
        self._stream.close()

    def _bind(self, model: Path, task: Task) -> None:
        engine, stream = self._engine, self._stream
        outputs = [name for name, _, _ in engine.outputs]
        name, self._shape, self.batch = check_graph(model, engine.inputs, outputs, task)
        if wrong := [f"{name} ({dtype})" for name, dtype, _ in engine.outputs if dtype != "float32"]:
            raise BundleError(f"{model}: the engine's outputs are not float32: {', '.join(wrong)}", "export it again")
        if self.batch is None:
            least, _, self._largest = engine.batches(name)
            self.batch = least if least == self._largest else None
        else:
            self._largest = self.batch
        places = []
        for tensor, dtype, shape in [*engine.inputs, *engine.outputs]:
            whole = (self._largest, *(side or 1 for side in shape[1:]))
            size = int(np.prod(whole)) * np.dtype(dtype).itemsize
            host: Any = (ctypes.c_byte * size).from_address(stream.pinned(size))
            places.append(_Buffer(tensor, stream.device(size), np.frombuffer(host, np.dtype(dtype)).reshape(whole)))
            engine.bind(tensor, places[-1].device)
        self._input, self._results = places[0], places[1:]
        self._main = self._results[outputs.index(task.main)]
        self.outputs = outputs

    def _run(self, images: NDArray[np.uint8], wanted: list[_Buffer]) -> list[NDArray[np.float32]]:
        if len(images) <= self._largest:
            self._run_part(images)
            return [place.host[: len(images)].copy() for place in wanted]
        parts = []
        for start in range(0, len(images), self._largest):
            part = images[start : start + self._largest]
            self._run_part(part)
            parts.append([place.host[: len(part)].copy() for place in wanted])
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]

    def _run_part(self, images: NDArray[np.uint8]) -> None:
        """Run one part; the results are in the outputs' host memory when it returns."""
        batch, stream = len(images), self._stream
        self._set_batch(batch)
        np.copyto(self._input.host[:batch], images)
        if self._recorded:
            stream.launch()
        elif (
            self._graphs and self._runs
        ):  # the first run of a size is not recorded, because TensorRT initializes itself in it
            self._record(batch)
            stream.launch()
        else:
            self._copy_and_compute(batch)
        stream.wait()
        self._runs += 1

    def _set_batch(self, batch: int) -> None:
        """Set the engine's batch size; the graph for another size is dropped, because it belongs to the engine's former state."""
        self._stream.enter()
        if batch == self._batch_set:
            return
        self._stream.drop_graph()
        self._recorded, self._runs = False, 0
        self._engine.set_shape(self._input.name, (batch, *self._shape))
        self._batch_set = batch

    def _record(self, batch: int) -> None:
        self._stream.begin_capture()
        try:
            self._copy_and_compute(batch)
        except BaseException:
            self._stream.abandon_capture()
            raise
        self._stream.end_capture()
        self._recorded = True

    def _copy_and_compute(self, batch: int) -> None:
        self._copy_in(batch)
        self._compute(batch)
        self._copy_out(batch)

    def _copy_in(self, batch: int) -> None:
        place = self._input
        self._stream.to_device(place.device, place.host.ctypes.data, place.host[:batch].nbytes)

    def _compute(self, batch: int) -> None:
        self._engine.enqueue(self._stream.handle)

    def _copy_out(self, batch: int) -> None:
        for place in self._results:
            self._stream.to_host(place.host.ctypes.data, place.device, place.host[:batch].nbytes)


def _number(model: Path, text: str) -> int:
    if not text.isdecimal():
        raise BundleError(f"{model}: {DEVICE} is {text}, not a number", "count GPUs from 0")
    return int(text)


def _load(flavor: Flavor, version: str, files: ModelFiles, gpu: cuda.CudaGpu, engines: EngineCache) -> Engine:
    def deserialize(plan: bytes) -> Engine | None:
        return Engine.load(flavor, plan)

    model = files.path
    machine, release = this_machine(version, gpu), adapter.version(adapter.load(flavor))
    if model.suffix != ".engine":
        onnx, options = _read_plan(files, flavor, adapter.strongly_typed(flavor, release))
        return engines.load(files, onnx, options, machine, deserialize)
    record = _read_description(EngineRecord, files, model.name + RECORD)
    if record is None:
        raise BundleError(f"{model}: its record, {model.name}.json, is missing or damaged", "export it again")
    why = why_not_here(record.report.tensorrt, record.options, record.machine, machine)
    if not why:
        plan = files.read(model.name)
        # This release must not read another release's bytes, whatever their record says.
        if (built_by := release_of(plan)) is not None and built_by != release[:3]:
            why = f"its file is from TensorRT {'.'.join(map(str, built_by))}, but {version} is installed"
        elif (loaded := deserialize(plan)) is not None:
            return loaded
        else:
            why = "TensorRT does not accept it"
    onnx = Path(record.onnx).name
    if not files.has(onnx):
        raise BundleError(f"{model}: {why}, and {onnx} is not beside it to build it again", "copy the whole bundle")
    options = record.options.model_copy(update={"compute_capabilities": ()})
    return engines.load(files, onnx, options, machine, deserialize)


def _read_description(kind: type[_Description], files: ModelFiles, name: str) -> _Description | None:
    """Read a JSON file of a model; None if it is missing, damaged or of another schema."""
    if not files.has(name):
        return None
    try:
        return kind.model_validate(parse_json(files.read(name), name))
    except (OSError, Unreadable, ValidationError):
        return None


def why_not_here(built_by: str, options: BuildOptions, bound_to: Mapping[str, str], machine: Mapping[str, str]) -> str:
    """Return why an engine cannot run on a machine; an empty string if it can."""
    if built_by != machine["tensorrt"]:
        return f"it was built by TensorRT {built_by}, but {machine['tensorrt']} is installed"
    if options.compute_capabilities:
        if machine["compute_capability"] not in options.compute_capabilities:
            return f"it was built for compute capability {', '.join(options.compute_capabilities)}, but this GPU has {machine['compute_capability']}"
        return ""
    for what in ("gpu", "compute_capability", "architecture"):
        if bound_to.get(what) != machine[what]:
            return f"it was built on {bound_to.get(what, 'another machine')}, but this is {machine[what]}"
    return ""


def _read_plan(files: ModelFiles, flavor: Flavor, strong: bool) -> tuple[str, BuildOptions]:
    """Return the ONNX file to build and the options, from the plan beside the bundle's file."""
    path = files.path.with_suffix(".json")
    plan = _read_description(BuildPlan, files, path.name)
    if plan is None:
        raise BundleError(
            f"{path}: the build plan of {files.path.name} is missing or damaged", "export the bundle again"
        )
    name = plan.onnx if strong else plan.weak_onnx or plan.onnx
    if not files.has(name):
        raise BundleError(f"{path}: {name} is not beside it", "copy the whole bundle")
    return name, plan.options(flavor)


def open_classic(model: Path | ModelFiles, threads: int, settings: Mapping[str, str]) -> TensorRtSession:
    """Open a session of classic TensorRT; see `TensorRtSession`."""
    return TensorRtSession("tensorrt", model, threads, settings)


def open_rtx(model: Path | ModelFiles, threads: int, settings: Mapping[str, str]) -> TensorRtSession:
    """Open a session of TensorRT for RTX; see `TensorRtSession`."""
    return TensorRtSession("tensorrt-rtx", model, threads, settings)
