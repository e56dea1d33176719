"""A stand-in for classic TensorRT's Python module, which no machine without its libraries has: the calls that edgekit makes, on ONNX Runtime.

An "engine" is the ONNX behind a line of JSON that says how it was built. Which release it is, is in STAND_IN_TENSORRT; enums have the
members and values of the recorded listings, so what a release does not have is not here either. Runs are put on a stream of the stand-in
for the CUDA driver (cuda.c). It says nothing about what NVIDIA's kernels compute.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
from pathlib import Path

import numpy as np

__version__ = os.environ.get("STAND_IN_TENSORRT", "10.3.0")
_release = tuple(int(part) for part in __version__.split("."))
_listing = "11.4" if _release[0] == 11 else "10.16" if _release >= (10, 12) else "10.3"
_names = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "tensorrt_api" / f"{_listing}.json").read_text(encoding="utf-8")
)
for _name, _members in _names.items():
    if isinstance(_members, dict):
        globals()[_name] = enum.IntEnum(_name, _members)

_WORK = ctypes.CFUNCTYPE(None)


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class IProgressMonitor: ...


class IProfiler: ...


class _Memory(bytes):
    nbytes = property(len)


class _Tensor:
    def __init__(self, name, shape, dtype):
        self.name, self.shape, self.dtype = name, shape, dtype


class _Network:
    num_layers = 0

    def __init__(self, flags):
        self.flags, self.model, self.num_inputs, self.num_outputs = flags, b"", 0, 0

    def get_input(self, i):
        return self.inputs[i]


class OnnxParser:
    def __init__(self, network, logger):
        self.network, self.num_errors = network, 0

    def parse_from_file(self, path):
        self.network.model = Path(path).read_bytes()
        inputs, outputs = _tensors(_session(self.network.model))
        self.network.inputs, self.network.num_inputs, self.network.num_outputs = inputs, len(inputs), len(outputs)
        return True


class _TimingCache:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return _Memory(self.content + b"timed;")


class _Config:
    def __init__(self):
        self.flags, self.profiles, self.progress_monitor, self.cache = [], [], None, None

    def set_flag(self, flag):
        self.flags.append(flag.name)

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.shapes)

    def create_timing_cache(self, content):
        return _TimingCache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache

    def get_timing_cache(self):
        return self.cache


class _Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, low, best, high):
        self.shapes[name] = [low, best, high]


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        return _Network(flags)

    def create_builder_config(self):
        return _Config()

    def create_optimization_profile(self):
        return _Profile()

    def build_serialized_network(self, network, config):
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 4)
        for i in range(4):
            if not monitor.step_complete("Building engine", i):
                return None
        monitor.phase_finish("Building engine")
        build_settings = {
            "release": __version__,
            "flags": config.flags,
            "network": network.flags,
            "profiles": config.profiles,
        }
        return _Memory(json.dumps(build_settings).encode() + b"\n" + network.model)


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, plan):
        build_settings, _, model = plan.partition(b"\n")
        try:
            engine = _Engine(json.loads(build_settings), model)
        except ValueError:
            return None
        return engine if engine.build_settings["release"] == __version__ else None


class _Engine:
    def __init__(self, build_settings, model):
        self.build_settings, self.session = build_settings, _session(model)
        self.inputs, self.outputs = _tensors(self.session)
        self.tensors = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.tensors)

    def _of(self, name):
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def get_tensor_name(self, i):
        return self.tensors[i].name

    def get_tensor_dtype(self, name):
        return self._of(name).dtype

    def get_tensor_shape(self, name):
        return self._of(name).shape

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if self._of(name) in self.inputs else TensorIOMode.OUTPUT  # noqa: F821

    def get_tensor_profile_shape(self, name, profile):
        return self.build_settings["profiles"][profile][name]

    def create_execution_context(self):
        return _Context(self)

    def create_engine_inspector(self):
        return _Inspector()


class _Inspector:
    def get_engine_information(self, form):
        tensor = {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}
        conv = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [tensor], "Outputs": [tensor]}
        return json.dumps({"Layers": [{**conv, "Weights": {"Type": "Int8"}, "Metadata": "[ONNX Layer: conv]"}]})


class _Context:
    profiler = None
    enqueue_emits_profile = False

    def __init__(self, engine):
        self.engine, self.addresses, self.shapes, self.kept = engine, {}, {}, []

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        self.shapes[name] = shape
        return low[0] <= shape[0] <= high[0]

    def execute_async_v3(self, stream):
        shapes = dict(self.shapes)

        def work():
            (image,) = self.engine.inputs
            fed = {image.name: _at(self.addresses[image.name], shapes[image.name], np.uint8).copy()}
            names = [tensor.name for tensor in self.engine.outputs]
            for name, value in zip(names, self.engine.session.run(names, fed), strict=True):
                _at(self.addresses[name], value.shape, value.dtype)[:] = value
            if self.profiler is not None:
                self.profiler.report_layer_time("conv", 0.25)
                self.profiler.report_layer_time("head", 0.5)

        self.kept.append(_WORK(work))  # a recorded run needs its function as long as the graph lives
        return ctypes.CDLL(os.environ["STAND_IN_CUDA"]).standInEnqueue(ctypes.c_void_p(stream), self.kept[-1]) == 0


def _at(address, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_byte * size).from_address(address), dtype).reshape(shape)


def _session(model):
    import onnxruntime

    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def _tensors(session):
    kinds = {"tensor(uint8)": DataType.UINT8, "tensor(float)": DataType.FLOAT}  # noqa: F821
    return tuple(
        [_Tensor(x.name, tuple(s if isinstance(s, int) else -1 for s in x.shape), kinds[x.type]) for x in tensors]
        for tensors in (session.get_inputs(), session.get_outputs())
    )
