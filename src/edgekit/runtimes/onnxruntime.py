"""ONNX Runtime: on the CPU, and with the execution providers of its other builds (CUDA, TensorRT, OpenVINO)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.errors import BundleError, RuntimeMissing, near
from edgekit.foreign import parse_json, read_bytes, understood
from edgekit.processors import pinned_threads, usable_cpus
from edgekit.runtimes.model_files import ModelFiles, files_of
from edgekit.runtimes.session import (
    PROVIDER,
    ProfiledNode,
    StageTimes,
    check_graph,
    check_images,
    check_settings,
    fold_layers,
    wrong_images,
)
from edgekit.runtimes.streams import Streams, ThreadStreams
from edgekit.temporary import scratch_folder

# Value of `--provider` (see `edgekit.targets`) -> ONNX Runtime's own name, the package that contains it, and the device of its tensors
# (None: main memory).
PROVIDERS: dict[str, tuple[str, str, str | None]] = {
    "cpu": ("CPUExecutionProvider", "onnxruntime", None),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu", "cuda"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu, with TensorRT", "cuda"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino", None),
}
# Whether idle threads of the pool spin while they wait. On by default, which gives the lowest latency for one session. If several
# sessions in one process share few cores, spinning makes each 2 to 5 times slower: set it to "0" there.
SPINNING = "session.intra_op.allow_spinning"
_MOST_PROFILE = 1 << 30  # bytes: it has every node of every run
# ONNX Runtime silently runs nodes on the CPU that a provider does not support; with this it refuses the session instead.
_NO_FALLBACK = "session.disable_cpu_ep_fallback"


class OnnxRuntimeSession:
    """A session of ONNX Runtime: one provider, one node after another (see `edgekit.runtimes.Session`).

    Args:
        model: the .onnx file, by its path or as files that are checked when they are opened.
        threads: threads inside an operator; 0: one per physical core, but no more than the processors that this process may use.
        settings: takes `provider` (cpu, the default, cuda, tensorrt or openvino) and `session.intra_op.allow_spinning` ("0" or "1").

    Raises:
        BundleError: ONNX Runtime cannot load the file, or the provider does not support one of its nodes.
        RuntimeMissing: this build of ONNX Runtime does not have the requested provider.
    """

    runtime = "onnxruntime"

    def __init__(
        self, model: Path | ModelFiles, threads: int, settings: Mapping[str, str], *, profile: Path | None = None
    ) -> None:
        check_settings(self.runtime, settings, [PROVIDER, SPINNING])
        threads = threads or pinned_threads()
        files = files_of(model)
        self._opened = (files, threads, dict(settings))
        session = _open(files, threads, settings, profile)
        inputs = [
            (x.name, _dtype(x.type), [s if isinstance(s, int) else None for s in x.shape]) for x in session.get_inputs()
        ]
        self.outputs = [x.name for x in session.get_outputs()]
        self._input, self._shape, self.batch = check_graph(files.path, inputs, self.outputs, files.task)
        self._main = [files.task.main]
        self._session: Any = session
        self.version: str = ort.__version__
        options = session.get_session_options()
        self.settings = {
            "provider": session.get_providers()[0],
            "intra_op_num_threads": str(options.intra_op_num_threads),
            "inter_op_num_threads": str(options.inter_op_num_threads),
            "execution_mode": options.execution_mode.name,
            "graph_optimization_level": options.graph_optimization_level.name,
            SPINNING: options.get_session_config_entry(SPINNING),
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
        output: NDArray[np.float32] = self._session.run(self._main, {self._input: images})[0]
        return output

    def run_all(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every output by its name (see `Session.run_all`)."""
        check_images(images, self._shape, self.batch)
        return dict(zip(self.outputs, self._session.run(self.outputs, {self._input: images}), strict=True))

    def streams(self, count: int = 0, batch: int = 1) -> Streams:
        """Return threads that run the same model at the same time (see `Streaming.streams`).

        They share one session, which ONNX Runtime allows. Its pool has each stream's share of the threads; with 0 streams, there are
        as many streams as threads. Idle threads do not spin.
        """
        model, threads, settings = self._opened
        total = threads or usable_cpus()
        count = count or total
        shared = OnnxRuntimeSession(model, max(1, total // count), {**settings, SPINNING: "0"})
        return ThreadStreams(shared, count)

    def stages(self, images: NDArray[np.uint8]) -> StageTimes | None:
        """Time one run and its transfers separately, in nanoseconds; None if tensors need no transfer (CPU, OpenVINO)."""
        device = PROVIDERS[self._opened[2].get(PROVIDER, "cpu")][2]
        return None if device is None else self._staged(images, device)

    def _staged(self, images: NDArray[np.uint8], device: str) -> StageTimes:
        check_images(images, self._shape, self.batch)
        binding = self._session.io_binding()
        began = time.perf_counter_ns()
        input_value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images), device, 0)
        binding.bind_ortvalue_input(self._input, input_value)
        binding.bind_output(self._main[0], device)
        binding.synchronize_inputs()
        copied = time.perf_counter_ns()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        computed = time.perf_counter_ns()
        binding.get_outputs()[0].numpy()
        return StageTimes(copied - began, computed - copied, time.perf_counter_ns() - computed)

    def profile(self, images: NDArray[np.uint8], runs: int, warmup: int) -> list[ProfiledNode]:
        """Return the time of every node over `runs` runs after `warmup` others, from ONNX Runtime's profiler.

        A node that the optimizer fused has the optimizer's name. Times are whole microseconds, the profiler's resolution.
        """
        model, threads, settings = self._opened
        with scratch_folder("profile") as folder:
            profiled = OnnxRuntimeSession(model, threads, settings, profile=Path(folder, "ort"))
            for _ in range(warmup + runs):
                profiled.run(images)
            written = Path(profiled._session.end_profiling())
            profiled.close()
            content = read_bytes(written, _MOST_PROFILE)
        return fold_layers(node_times(content), warmup + runs, warmup)

    def close(self) -> None:
        """Release the model."""
        self._session = None


def session_options(threads: int = 0) -> ort.SessionOptions:
    """Return options for a session whose threads respect this process's affinity, for code that does not use `OnnxRuntimeSession`.

    ONNX Runtime's default is one thread per physical core of the machine, pinned to it whatever the affinity mask says, with an error
    on standard error for each if pinning is refused; with an explicit number, threads are not pinned.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or pinned_threads()
    return options


def _open(files: ModelFiles, threads: int, settings: Mapping[str, str], profile: Path | None) -> Any:
    model = files.path
    name = settings.get(PROVIDER, "cpu")
    if name not in PROVIDERS:
        raise BundleError(
            f"{model}: unknown provider {name} of onnxruntime",
            near(name, PROVIDERS) or f"choose {', '.join(PROVIDERS)}",
        )
    provider, build, _ = PROVIDERS[name]
    if provider not in ort.get_available_providers():
        raise RuntimeMissing(
            f"{model}: this build of ONNX Runtime does not have {provider}, only {', '.join(ort.get_available_providers())}",
            f"install the package {build} instead of onnxruntime",
        )
    options = session_options(threads)
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry(SPINNING, settings.get(SPINNING, "1"))
    if name != "cpu":
        options.add_session_config_entry(_NO_FALLBACK, "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    options.log_severity_level = 3  # errors only: they become exceptions, and warnings are about choices made at export
    with files.opened(model.name) as (path,):
        try:
            provider_options = [_provider_options(name, threads)]
            session = ort.InferenceSession(
                path, options, providers=[provider], provider_options=provider_options, enable_fallback=0
            )
        except Exception as error:  # onnxruntime's own exception classes share no base but Exception
            reason = str(error).replace(path, str(model))
            raise BundleError(
                f"{model}: ONNX Runtime cannot load it{'' if name == 'cpu' else f' with {provider}'}: {reason}",
                "export the bundle again" if name == "cpu" else "leave out --provider to run it on the CPU",
            ) from error
    if session.get_providers()[0] != provider:  # the provider's libraries are missing, which ONNX Runtime only logs
        raise RuntimeMissing(
            f"{model}: ONNX Runtime cannot use {provider} here, only {', '.join(session.get_providers())}",
            "install edgekit's wheel with the extra [ort]"
            if name == "cpu"
            else "install the libraries that the provider needs",
        )
    session.disable_fallback()  # so that a provider's error in a run is raised
    return session


def _provider_options(name: str, threads: int) -> dict[str, str]:
    """Return options of a provider beyond the session's: OpenVINO's provider does not know the session's threads, and would choose
    the precision of float layers by machine."""
    if name != "openvino":
        return {}
    config = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = str(threads)
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": config})}


def node_times(profile: bytes) -> list[tuple[str, str, int]]:
    """Return name, operator and nanoseconds of every node execution, in order, from ONNX Runtime's profile.

    The format is Chrome's trace format: `ph` X events with `cat` Node, whose `dur` is in microseconds.

    Raises:
        Unreadable: the profile has another format.
    """
    ending, source = "_kernel_time", "the profile of ONNX Runtime"
    events = parse_json(profile, source, list)
    with understood(source, "a list of events"):
        return [
            (str(event["name"]).removesuffix(ending), str(event["args"]["op_name"]), int(event["dur"]) * 1000)
            for event in events
            if event.get("cat") == "Node" and str(event["name"]).endswith(ending)
        ]


def devices() -> list[str]:
    """Return the execution providers of this build, for `edgekit doctor`."""
    return [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]


def _dtype(kind: str) -> str:
    """Return NumPy's name for ONNX Runtime's `tensor(uint8)`."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
