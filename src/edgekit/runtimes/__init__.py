"""The runtimes: one module or folder each, all with the same interface, listed in `edgekit.targets`.

A runtime is imported only when a session is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from pathlib import Path
from types import MappingProxyType

from edgekit import targets
from edgekit.bundle import Bundle, Variant
from edgekit.errors import BundleError, RuntimeMissing
from edgekit.runtimes.model_files import FilesOfBundle, FilesOnDisk, ModelFiles
from edgekit.runtimes.session import Session
from edgekit.tasks import Task

_NONE: Mapping[str, str] = MappingProxyType({})


def installed() -> dict[str, str | None]:
    """Return the version of every runtime that edgekit knows; None if it is not installed. No runtime is imported."""
    return {name: _version(entry.module, entry.packages) for name, entry in targets.runtimes().items()}


def why_not(runtime: str) -> RuntimeMissing | None:
    """Return why models of a runtime cannot run on this machine, or None if they can."""
    entry = targets.find_runtime(runtime)
    if entry is None:
        return RuntimeMissing(
            f"this edgekit does not know the runtime {runtime}", "update edgekit, or install the package that adds it"
        )
    if _version(entry.module, entry.packages) is None:
        return RuntimeMissing(f"{runtime} is not installed", entry.install)
    if entry.requires:
        try:
            targets.resolve(entry.requires)()
        except RuntimeMissing as missing:
            return RuntimeMissing(f"{runtime}: {missing.message}", missing.hint)
        except ImportError as error:
            return RuntimeMissing(
                f"{runtime}: {entry.requires} does not load: {error}", "update the package that adds it"
            )
    return None


def open_session(
    runtime: str, model: Path, *, threads: int = 0, settings: Mapping[str, str] = _NONE, task: Task | None = None
) -> Session:
    """Load a model file into a runtime.

    Args:
        runtime: the runtime's name.
        model: the file to open: .onnx for onnxruntime; .xml (its .bin beside it) or .onnx for openvino; .engine (its record beside it) or
            .onnx (its build plan beside it) for tensorrt and tensorrt-rtx; .tflite for litert and tflite-micro; .pte for executorch.
        threads: threads inside an operator; 0 leaves it to the runtime.
        settings: further settings of the runtime; the runtime's module lists the keys.
        task: whose outputs the model gives; None: the usual one, classification.

    Raises:
        RuntimeMissing: the runtime is not installed, or needs a GPU that this machine does not have.
        BundleError: the file cannot be loaded, is not a graph of edgekit's, or needs something that this machine does not support.
    """
    if missing := why_not(runtime):
        raise missing
    if not Path(model).is_file():
        raise BundleError(f"{model}: no such model", "export it again")
    return _open(runtime, FilesOnDisk(Path(model), task), threads, settings)


def _open(runtime: str, model: ModelFiles, threads: int, settings: Mapping[str, str]) -> Session:
    entry = targets.find_runtime(runtime)
    assert entry is not None  # `why_not` has checked it
    try:
        session: Session = targets.resolve(entry.session)(model, threads, settings)
    except ImportError as error:
        raise RuntimeMissing(
            f"{runtime} is installed but does not load: {error}", f"reinstall it: {entry.install}"
        ) from error
    return session


def load(bundle: Bundle, variant: Variant, *, threads: int = 0, settings: Mapping[str, str] = _NONE) -> Session:
    """Load a variant of a bundle. Only bytes that match the recorded digests reach the runtime.

    Args:
        bundle: an opened bundle.
        variant: one of its variants.
        threads: threads inside an operator; 0 leaves it to the runtime.
        settings: settings in addition to the variant's own, for example the provider.

    Raises:
        RuntimeMissing, BundleError: see `open_session`; also if a file was changed.
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
    return "unknown"  # importable, but not from a package: its session knows the version


__all__ = ["Session", "installed", "load", "open_session", "why_not"]
