"""A cache of engines that were built on this machine; the key has everything that determines an engine."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from edgekit.errors import BundleError, EdgekitError, ExportError
from edgekit.files import cache_folder, digest_of, sha256, write_text
from edgekit.foreign import Unreadable, read_json
from edgekit.runtimes.model_files import ModelFiles
from edgekit.runtimes.tensorrt import cuda
from edgekit.runtimes.tensorrt.launch import build
from edgekit.runtimes.tensorrt.options import BUILD_SCHEMA, BuildOptions, EngineRecord

Loaded = TypeVar("Loaded")
RECORD = ".json"  # suffix after an engine's file name


def this_machine(tensorrt: str, gpu: cuda.CudaGpu) -> dict[str, str]:
    """Return the machine properties that an engine depends on.

    Args:
        tensorrt: the exact version.
        gpu: the GPU to run on.
    """
    return {
        "tensorrt": tensorrt,
        "gpu": gpu.name,
        "compute_capability": gpu.capability,
        "cuda": cuda.driver().version(),
        "driver": cuda.driver_release(),
        "os": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
    }


def key(onnx: list[str], options: BuildOptions, machine: dict[str, str]) -> str:
    """Return an engine's key: the SHA-256 of the digests of the ONNX file and its external data, the options, and the machine."""
    return digest_of(
        {
            "schema": BUILD_SCHEMA,
            "onnx": onnx,
            "options": options.model_dump(mode="json"),
            "machine": machine,
        }
    )


def write_record(engine: Path, record: EngineRecord) -> Path:
    """Write an engine's record beside it, and return the record's path."""
    path = engine.with_name(engine.name + RECORD)
    write_text(path, record.model_dump_json(indent=2, by_alias=True) + "\n")
    return path


def read_record(engine: Path) -> EngineRecord | None:
    """Read an engine's record; None if it is missing or of another schema."""
    path = engine.with_name(engine.name + RECORD)
    try:
        return EngineRecord.model_validate(read_json(path))
    except (Unreadable, ValidationError):
        return None


class EngineCache:
    """A folder of engines, one for each `key`.

    Args:
        folder: by default in the user's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / "engines"

    def load(
        self,
        files: ModelFiles,
        name: str,
        options: BuildOptions,
        machine: dict[str, str],
        deserialize: Callable[[bytes], Loaded | None],
    ) -> Loaded:
        """Return the engine of an ONNX file on this machine: from the cache, or built now and cached.

        An engine that TensorRT no longer accepts is built again. The record is written before the engine gets its final name, so every
        engine has one.

        Args:
            files, name, options: the ONNX file to build, and how.
            machine: see `this_machine`.
            deserialize: returns the loaded engine, or None if TensorRT does not accept it.

        Raises:
            BundleError: it cannot be built, or TensorRT does not accept the new engine.
            RuntimeMissing: TensorRT is not installed, or there is no GPU.
        """
        engine = self.folder / f"{key(files.digests(name), options, machine)[:40]}.engine"
        cached = self._read(engine)
        if cached is not None and (loaded := deserialize(cached)) is not None:
            return loaded
        with files.placed(name) as onnx:
            loaded = deserialize(self._build(onnx, engine, options, machine))
        if loaded is None:
            raise BundleError(
                f"{files.path.with_name(name)}: TensorRT {machine['tensorrt']} built an engine from it but cannot load that engine",
                "use another variant of the bundle",
            )
        return loaded

    def _read(self, engine: Path) -> bytes | None:
        record = read_record(engine)
        try:
            plan = engine.read_bytes()
        except OSError:
            return None
        same = record is not None and hashlib.sha256(plan).hexdigest() == record.report.engine_sha256
        return plan if same else None

    def _build(self, onnx: Path, engine: Path, options: BuildOptions, machine: dict[str, str]) -> bytes:
        times = self.folder / f"timing-{digest_of(machine)[:16]}.cache"
        unfinished = engine.with_name(f".{engine.name}.{os.getpid()}.new")
        try:
            report = build(onnx, unfinished, options, timing_cache=times)
            record = EngineRecord(
                onnx=onnx.name, onnx_sha256=sha256(onnx), options=options, machine=machine, report=report
            )
            plan = unfinished.read_bytes()
            write_record(engine, record)
            unfinished.replace(engine)
            return plan
        except ExportError as error:
            raise BundleError(
                error.message, error.hint or "use another variant of the bundle on this machine"
            ) from error
        except OSError as error:
            raise EdgekitError(
                f"{self.folder}: cannot write the engine: {error.strerror or error}",
                "set EDGEKIT_CACHE to a writable folder",
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)
