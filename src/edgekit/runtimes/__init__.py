"""The runtimes: one file each, all with the same few verbs. A runtime is imported when a session is opened, never before."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from pathlib import Path
from types import MappingProxyType

from edgekit.bundle import Bundle, RuntimeName, Variant
from edgekit.errors import BundleError, RuntimeMissing
from edgekit.runtimes.model_files import FilesOfBundle, ModelFiles
from edgekit.runtimes.session import Session

# runtime -> (import name, distributions that bring it, edgekit's extra)
_RUNTIMES: dict[RuntimeName, tuple[str, tuple[str, ...], str]] = {
    "onnxruntime": ("onnxruntime", ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"), "ort"),
    "openvino": ("openvino", ("openvino",), "openvino"),
    "tensorrt": ("tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "trt"),
    "tensorrt-rtx": ("tensorrt_rtx", ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"), "trt-rtx"),
}
RUNNABLE: tuple[RuntimeName, ...] = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
_ON_NVIDIA: tuple[RuntimeName, ...] = ("tensorrt", "tensorrt-rtx")
_NONE: Mapping[str, str] = MappingProxyType({})


def installed() -> dict[RuntimeName, str | None]:
    """The version of every runtime that edgekit knows; None where it is not installed. Nothing is imported for it."""
    return {name: _version(*_RUNTIMES[name][:2]) for name in _RUNTIMES}


def extra(runtime: RuntimeName) -> str:
    """The extra of edgekit's wheel that brings a runtime."""
    return _RUNTIMES[runtime][2]


def why_not(runtime: RuntimeName) -> RuntimeMissing | None:
    """Why models of a runtime cannot run on this machine, or None where they can."""
    module, distributions, extra = _RUNTIMES[runtime]
    if _version(module, distributions) is None:
        jetson = "; a Jetson has it from JetPack" if runtime == "tensorrt" else ""
        return RuntimeMissing(
            f"{runtime} is not installed", f"install edgekit's wheel with the extra [{extra}]{jetson}"
        )
    if runtime in _ON_NVIDIA:
        from edgekit.runtimes.tensorrt import cuda

        try:
            cuda.driver()
        except RuntimeMissing as missing:
            return RuntimeMissing(f"{runtime}: {missing.message}", missing.hint)
    return None


def open_session(
    runtime: RuntimeName, model: Path, *, threads: int = 0, settings: Mapping[str, str] = _NONE
) -> Session:
    """Load a model file into a runtime.

    Args:
        runtime: which one.
        model: what it opens: .onnx for onnxruntime; .xml (its .bin beside it) or .onnx for openvino; .engine (its record beside it) or
            .onnx (its build plan beside it) for tensorrt and tensorrt-rtx.
        threads: threads inside an operator; 0 leaves it to the runtime.
        settings: what else the runtime must be told; see the runtime's file for the keys that it takes.

    Raises:
        RuntimeMissing: the runtime is not installed, or needs a GPU that is not here.
        BundleError: the file cannot be loaded, is not a graph of edgekit's, or asks for what this machine does not do.
    """
    if missing := why_not(runtime):
        raise missing
    if not Path(model).is_file():
        raise BundleError(f"{model}: no such model", "export it again")
    return _open(runtime, Path(model), threads, settings)


def _open(runtime: RuntimeName, model: Path | ModelFiles, threads: int, settings: Mapping[str, str]) -> Session:
    try:
        if runtime == "onnxruntime":
            from edgekit.runtimes.onnxruntime import OnnxRuntimeSession

            return OnnxRuntimeSession(model, threads, settings)
        if runtime in _ON_NVIDIA:
            from edgekit.runtimes.tensorrt.session import TensorRtSession

            return TensorRtSession(runtime, model, threads, settings)
        from edgekit.runtimes.openvino import OpenVinoSession

        return OpenVinoSession(model, threads, settings)
    except ImportError as error:
        extra = _RUNTIMES[runtime][2]
        raise RuntimeMissing(
            f"{runtime} is installed but does not load: {error}",
            f"install edgekit's wheel with the extra [{extra}] anew",
        ) from error


def load(bundle: Bundle, variant: Variant, *, threads: int = 0, settings: Mapping[str, str] = _NONE) -> Session:
    """Load a variant of a bundle: the bytes that were compared with the digests of its files, and no others.

    Args:
        bundle: an opened bundle.
        variant: one of its variants.
        threads: threads inside an operator; 0 leaves it to the runtime.
        settings: what the runtime must be told beyond the variant's own settings, for instance the provider.

    Raises:
        RuntimeMissing, BundleError: see `open_session`; also where a file was changed.
    """
    if missing := why_not(variant.runtime):
        raise missing
    files = FilesOfBundle(bundle, variant)
    weights = f"{files.path.stem}.bin"
    if files.path.suffix == ".xml" and not files.has(weights):
        raise BundleError(f"{files.path}: the bundle does not list its weights, {weights}", "export the bundle again")
    return _open(variant.runtime, files, threads, {**variant.settings, **settings})


def _version(module: str, distributions: tuple[str, ...]) -> str | None:
    if util.find_spec(module) is None:
        return None
    from importlib import metadata

    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"  # there, but not from a package: its session will tell the version


__all__ = ["RUNNABLE", "Session", "extra", "installed", "load", "open_session", "why_not"]
