"""ExecuTorch on the CPU, with its XNNPACK backend, by its runtime for Python.

That runtime takes and gives tensors of PyTorch, so this is the one session that needs PyTorch; it is imported when a session is opened. An app on
Android or iOS loads the same `.pte` without it.
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError, EdgekitError, RuntimeMissing, one_line
from edgekit.foreign import parse_json
from edgekit.processors import narrowed_threads, physical_cores, usable_cpus
from edgekit.runtimes.model_files import ModelFiles, files_of
from edgekit.runtimes.native_output import Caught, caught_stderr
from edgekit.runtimes.session import OUTSIDE, PARTITIONS, PROVIDER, check_cpu, check_graph, check_images

FORWARD, FACTS = "forward", "edgekit"  # the methods of a program: the network, and what the file says of itself (JSON)
_DTYPES = {0: "uint8", 1: "int8", 6: "float32"}  # torch's numbers of its types
# In what it writes to standard error on any computer: that it is no Arm phone, that the pool has another size, what torch thinks of torchao.
_NOISE = (b"cpuinfo_utils.cpp", b"threadpool.cpp", b"torch/utils/_pytree.py")
_BAD_FILE = "export the bundle again"


class ExecuTorchSession:
    """A session of ExecuTorch (see `edgekit.runtimes.Session`). A program has memory for one batch size, and runs one batch at a time.

    Args:
        model: the .pte file, by its path or as files that are checked when they are opened.
        threads: threads of an operator; 0: one per physical core, at most the number of processors that this process may use. ExecuTorch has
            one pool of threads per process: sessions that are open at the same time share it.
        settings: `provider`, which is `cpu`.

    Raises:
        BundleError: ExecuTorch cannot load the file, or another session is open with another number of threads.
        RuntimeMissing: PyTorch is not installed.
    """

    runtime = "executorch"

    def __init__(self, model: Path | ModelFiles, threads: int, settings: Mapping[str, str]) -> None:
        require_torch()
        files = files_of(model)
        check_cpu(self.runtime, settings, files.path)
        content = files.read(files.path.name)
        self._pool = _Pool.take(threads)
        try:
            with _reported(files.path):
                library = _library()
                program = library._load_program_from_buffer(
                    content,
                    enable_etdump=False,
                    debug_buffer_size=0,
                    program_verification=library.Verification.InternalConsistency,
                )
                facts = _facts(program, files.path)
                self._method = program.load_method(FORWARD)
            self._program: Any = (program, content)  # which refers to the bytes
            about = self._method.method_meta()
            self.outputs = [str(name) for name in facts["outputs"]]
            inputs = [_described(about.input_tensor_meta(i)) for i in range(about.num_inputs())]
            if len(self.outputs) != about.num_outputs():
                raise BundleError(
                    f"{files.path}: the program gives {about.num_outputs()} outputs, but names {len(self.outputs)}",
                    _BAD_FILE,
                )
            self._main = files.task.main
            _, self._shape, self.batch = check_graph(files.path, inputs, self.outputs, files.task)
        except BaseException:
            self._pool.give_back()
            raise
        self._released = weakref.finalize(self, self._pool.give_back)  # by `close`, or with the session
        self._turn = threading.Lock()
        self.version: str = metadata.version("executorch")
        self.settings = {
            PROVIDER: "cpu",
            "num_threads": str(self._pool.threads),
            PARTITIONS: str(facts.get("xnnpack_partitions", "unknown")),
            OUTSIDE: str(facts.get("outside_xnnpack", "unknown")),
        }

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the main output (n, …) float32 of images (n, H, W, 3) uint8 (see `Session.run`)."""
        return self.run_all(images)[self._main]

    def run_all(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every output by its name (see `Session.run_all`)."""
        import torch

        check_images(images, self._shape, self.batch)
        tensor = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        with self._turn:
            found = self._method((tensor,))  # copies
        return {name: value.numpy() for name, value in zip(self.outputs, found, strict=True)}

    def close(self) -> None:
        """Release the model."""
        self._method = self._program = None
        self._released()


class _Pool:
    """ExecuTorch's pool of threads, which may be replaced only while no program that was loaded with it is alive."""

    _lock, _users = threading.Lock(), 0

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @classmethod
    def take(cls, threads: int) -> _Pool:
        """Set the number of threads; 0: the default one, or that of the sessions that are open."""
        with cls._lock, _quiet():
            library = _library()
            now = int(library._threadpool_get_thread_count())
            wanted = threads or (now if cls._users else narrowed_threads() or physical_cores() or usable_cpus())
            if cls._users and wanted != now:
                raise BundleError(
                    f"executorch: a session with {now} threads is open in this process, and all share one pool of threads",
                    f"close it before one with {wanted} is opened",
                )
            if wanted != now:
                library._unsafe_reset_threadpool(wanted)
            cls._users += 1
        return cls(wanted)

    def give_back(self) -> None:
        """Say that the program is no longer there."""
        with self._lock:
            type(self)._users -= 1


def _library() -> Any:
    """ExecuTorch's runtime. The modules that the package puts over it load all of its exporter, which takes five seconds."""
    import torch  # noqa: F401  # brings the libraries that it is linked with

    try:
        from executorch.extension.pybindings import _C as library
    except ImportError:  # of another release
        from executorch.extension.pybindings import portable_lib as library
    return library


def _facts(program: Any, path: Path) -> dict[str, Any]:
    """What the file says of itself."""
    names = {str(program.get_method_name(i)) for i in range(program.num_methods())}
    if not {FORWARD, FACTS} <= names:
        listed = ", ".join(sorted(names)) or "none"
        raise BundleError(
            f"{path}: not a program of edgekit's: its methods are {listed}", "export the model with `edgekit export`"
        )
    (text,) = program.load_method(FACTS)(())
    facts: dict[str, Any] = parse_json(str(text), path, dict)
    if not isinstance(facts.get("outputs"), list):
        raise BundleError(f"{path}: the program does not name its outputs", _BAD_FILE)
    return facts


def _described(tensor: Any) -> tuple[str, str, list[int | None]]:
    """Name, dtype and shape of an input."""
    return "image", _DTYPES.get(tensor.dtype(), f"torch type {tensor.dtype()}"), list(tensor.sizes())


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn what ExecuTorch raises and writes when it cannot load a file into one error; remove its notes about the processor."""
    caught = Caught()
    try:
        with _quiet() as caught:
            yield
    except EdgekitError:
        raise
    except Exception as error:  # its own classes share no base but Exception
        said = b"".join(_remarks(caught)).decode(errors="replace").splitlines()
        reason = "; ".join(said[:2]) or str(error) or type(error).__name__
        raise BundleError(f"{path}: ExecuTorch cannot load it: {one_line(reason, 200)}", _BAD_FILE) from error


@contextmanager
def _quiet() -> Iterator[Caught]:
    """Remove the notes that ExecuTorch and its import write on any computer; what else is written is passed on if the block succeeds."""
    with warnings.catch_warnings(), caught_stderr() as caught:
        warnings.simplefilter("ignore")  # that its interface is experimental
        yield caught
    if remarks := _remarks(caught):
        os.write(2, b"".join(remarks))


def _remarks(caught: Caught) -> list[bytes]:
    """What was written that is not the same on any computer."""
    return [line for line in caught.content.splitlines(True) if not any(mark in line for mark in _NOISE)]


def require_torch() -> None:
    """Check that PyTorch is there (see `Runtime.requires`).

    Raises:
        RuntimeMissing: it is not installed.
    """
    if util.find_spec("torch") is None:
        raise RuntimeMissing(
            "its Python runtime needs PyTorch, which is not installed, so the file is not executed here",
            "install edgekit's wheel with the extra [executorch]; an app loads the .pte without PyTorch",
        )


def devices() -> list[str]:
    """Return the backends that it runs programs on, for `edgekit doctor`."""
    require_torch()
    with _quiet():
        there = _library()._is_available("XnnpackBackend")
    return ["CPU (XNNPACK)" if there else "CPU, without XNNPACK"]
