"""ONNX Runtime: on the CPU, and with the execution providers of other builds of it (CUDA, TensorRT, OpenVINO)."""

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

# By the word that `--provider` takes (see `edgekit.targets`): ONNX Runtime's own name, the package that has it, and where its tensors live
# (None: in main memory).
PROVIDERS: dict[str, tuple[str, str, str | None]] = {
    "cpu": ("CPUExecutionProvider", "onnxruntime", None),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu", "cuda"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu, with TensorRT", "cuda"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino", None),
}
# Whether idle threads of the pool spin while they wait. On by default, which is the lowest latency for one session; where
# several sessions live in one process on few cores, spinning inflates each by 2 to 5 times: set it to "0" there.
SPINNING = "session.intra_op.allow_spinning"
# ONNX Runtime gives nodes that a provider does not take to the CPU without a word; with this the session is refused instead.
_MOST_PROFILE = 1 << 30  # bytes: every node of every run is in it
_NO_FALLBACK = "session.disable_cpu_ep_fallback"


class OnnxRuntimeSession:
    """A session of ONNX Runtime: one provider, one node after the other (see `edgekit.runtimes.Session`).

    Args:
        model: the .onnx file, by its path or as files that are checked when they are opened.
        threads: threads inside an operator; 0 is one a physical core, but no more than this process may use processors.
        settings: takes `provider` (cpu, the default, cuda, tensorrt or openvino) and `session.intra_op.allow_spinning` ("0" or "1").

    Raises:
        BundleError: ONNX Runtime cannot load the file, or the provider does not take every node of it.
        RuntimeMissing: this build of ONNX Runtime does not give the provider that was asked for.
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
        told = session.get_session_options()
        self.settings = {
            "provider": session.get_providers()[0],
            "intra_op_num_threads": str(told.intra_op_num_threads),
            "inter_op_num_threads": str(told.inter_op_num_threads),
            "execution_mode": told.execution_mode.name,
            "graph_optimization_level": told.graph_optimization_level.name,
            SPINNING: told.get_session_config_entry(SPINNING),
        }

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The main output (n, …) float32 of images (n, H, W, 3) uint8 (see `Session.run`)."""
        # One chained test is all that a good batch pays for; what is wrong with a bad one is found out afterwards.
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
        """Every output by its name (see `Session.run_all`)."""
        check_images(images, self._shape, self.batch)
        return dict(zip(self.outputs, self._session.run(self.outputs, {self._input: images}), strict=True))

    def streams(self, count: int = 0, batch: int = 1) -> Streams:
        """Threads that run the same model at the same time (see `Streaming.streams`).

        One session, which ONNX Runtime lets several threads run at once, with its pool cut down to a stream's share of the
        threads: one for each stream where as many streams as processors are best. No thread of a pool spins.
        """
        model, threads, settings = self._opened
        total = threads or usable_cpus()
        count = count or total
        shared = OnnxRuntimeSession(model, max(1, total // count), {**settings, SPINNING: "0"})
        return ThreadStreams(shared, count)

    def stages(self, images: NDArray[np.uint8]) -> StageTimes | None:
        """One run with its transfers timed apart, in nanoseconds; None where tensors need no transfer (CPU, OpenVINO)."""
        device = PROVIDERS[self._opened[2].get(PROVIDER, "cpu")][2]
        return None if device is None else self._staged(images, device)

    def _staged(self, images: NDArray[np.uint8], device: str) -> StageTimes:
        check_images(images, self._shape, self.batch)
        binding = self._session.io_binding()
        began = time.perf_counter_ns()
        taken = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images), device, 0)
        binding.bind_ortvalue_input(self._input, taken)
        binding.bind_output(self._main[0], device)
        binding.synchronize_inputs()
        there = time.perf_counter_ns()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        computed = time.perf_counter_ns()
        binding.get_outputs()[0].numpy()
        return StageTimes(there - began, computed - there, time.perf_counter_ns() - computed)

    def profile(self, images: NDArray[np.uint8], runs: int, warmup: int) -> list[ProfiledNode]:
        """The time of every node over `runs` runs after `warmup` others, by ONNX Runtime's profiler.

        A node that the optimizer made of several bears the name that it gave. Times are whole microseconds: ONNX Runtime's
        profiler counts no finer.
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
    """Options of a session whose threads stay where this process may run, for whoever opens one without `OnnxRuntimeSession`.

    ONNX Runtime's own default is a thread for each physical core of the machine, pinned there, whatever the affinity mask says, and an
    error on standard error for each where pinning is refused; a number that is given is not pinned.
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
            near(name, PROVIDERS) or f"one of {', '.join(PROVIDERS)}",
        )
    provider, build, _ = PROVIDERS[name]
    if provider not in ort.get_available_providers():
        raise RuntimeMissing(
            f"{model}: asked ONNX Runtime for {provider}, this build has {', '.join(ort.get_available_providers())}",
            f"install the package {build} in place of onnxruntime",
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
            told = [_options(name, threads)]
            session = ort.InferenceSession(
                path, options, providers=[provider], provider_options=told, enable_fallback=0
            )
        except Exception as error:  # onnxruntime's own exception classes share no base but Exception
            reason = str(error).replace(path, str(model))
            raise BundleError(
                f"{model}: ONNX Runtime cannot load it{'' if name == 'cpu' else f' with {provider}'}: {reason}",
                "export the bundle again" if name == "cpu" else "without --provider it runs on the CPU",
            ) from error
    if session.get_providers()[0] != provider:  # the provider's own libraries are missing: ONNX Runtime only logs that
        raise RuntimeMissing(
            f"{model}: asked ONNX Runtime for {provider}, got {', '.join(session.get_providers())}",
            "install edgekit's wheel with the extra [ort]" if name == "cpu" else "install what the provider needs",
        )
    session.disable_fallback()  # of a run: an error of the provider stays one
    return session


def _options(name: str, threads: int) -> dict[str, str]:
    """What a provider is told beside the session: OpenVINO's knows nothing of its threads, and would choose the precision of
    float layers by the machine."""
    if name != "openvino":
        return {}
    config = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = str(threads)
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": config})}


def node_times(profile: bytes) -> list[tuple[str, str, int]]:
    """Name, operator and nanoseconds of every execution of a node, in order, in a profile that ONNX Runtime wrote.

    It is Chrome's trace format: `ph` X events with `cat` Node, whose `dur` is in microseconds.

    Raises:
        Unreadable: it is not.
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
    """The execution providers of this build, for `edgekit doctor`."""
    return [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]


def _dtype(kind: str) -> str:
    """NumPy's name for ONNX Runtime's `tensor(uint8)`."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
