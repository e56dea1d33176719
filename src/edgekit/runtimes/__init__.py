"""The runtimes: one module or folder each, all with the same few verbs, listed in `edgekit.targets`.

A runtime is imported when a session is opened, never before.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from pathlib import Path
from types import MappingProxyType

from edgekit import targets
from edgekit.bundle import Bundle, Variant
from edgekit.errors import BundleError, RuntimeMissing
from edgekit.runtimes.model_files import FilesOfBundle, ModelFiles
from edgekit.runtimes.session import Session

_NONE: Mapping[str, str] = MappingProxyType({})


def installed() -> dict[str, str | None]:
    """The version of every runtime that edgekit knows; None where it is not installed. Nothing is imported for it."""
    return {name: _version(found.module, found.packages) for name, found in targets.runtimes().items()}


def why_not(runtime: str) -> RuntimeMissing | None:
    """Why models of a runtime cannot run on this machine, or None where they can."""
    found = targets.find_runtime(runtime)
    if found is None:
        return RuntimeMissing(
            f"this edgekit does not know the runtime {runtime}", "update edgekit, or install the package that adds it"
        )
    if _version(found.module, found.packages) is None:
        return RuntimeMissing(f"{runtime} is not installed", found.install)
    if found.requires:
        try:
            targets.resolve(found.requires)()
        except RuntimeMissing as missing:
            return RuntimeMissing(f"{runtime}: {missing.message}", missing.hint)
        except ImportError as error:
            return RuntimeMissing(
                f"{runtime}: {found.requires} does not load: {error}", "update the package that adds it"
            )
    return None


def open_session(runtime: str, model: Path, *, threads: int = 0, settings: Mapping[str, str] = _NONE) -> Session:
    """Load a model file into a runtime.

    Args:
        runtime: which one.
        model: what it opens: .onnx for onnxruntime; .xml (its .bin beside it) or .onnx for openvino; .engine (its record beside it) or
            .onnx (its build plan beside it) for tensorrt and tensorrt-rtx; .tflite for litert.
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


def _open(runtime: str, model: Path | ModelFiles, threads: int, settings: Mapping[str, str]) -> Session:
    found = targets.find_runtime(runtime)
    assert found is not None  # `why_not` was asked before
    try:
        session: Session = targets.resolve(found.session)(model, threads, settings)
    except ImportError as error:
        raise RuntimeMissing(
            f"{runtime} is installed but does not load: {error}", f"reinstall it: {found.install}"
        ) from error
    return session


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


__all__ = ["Session", "installed", "load", "open_session", "why_not"]
