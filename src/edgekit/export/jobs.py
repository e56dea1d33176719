"""Make the variants of one export, one after the other or several at a time, each in its own process.

Processes, not threads: the quantizers and exporters redirect standard output, set log levels and keep state of their own.
The result does not depend on the number of jobs: every process verifies with the same number of threads, and the first one collects the
ranges of the activations for all (see `Calibration.histograms`).
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import progress as shown
from edgekit.bundle import Variant
from edgekit.children import end_with_parent, needs_main, without_main
from edgekit.errors import ExportError
from edgekit.export.catalog import split
from edgekit.export.inputs import Shared, Sources
from edgekit.export.make import make
from edgekit.export.staging import Staging
from edgekit.export.verify import ReferenceOutputs
from edgekit.processors import usable_cpus
from edgekit.quantize.calibration import Calibration
from edgekit.terminal import echo

_TICK_SECONDS = 0.2


def default_jobs(count: int) -> int:
    """The default number of jobs: one per core, one core left free, at most one per variant.

    Each process costs a few seconds and a few hundred megabytes (torch, ONNX Runtime, OpenVINO), and the work on one variant uses
    all cores where it can; on two cores, one after the other is as fast.
    """
    return max(1, min(count, usable_cpus() - 1, 4))


def make_all(ids: list[str], sources: Sources, staging: Staging, jobs: int) -> Iterator[Variant]:
    """Make variants, each in its folder of the staging area; yield each when it is finished, in any order.

    Args:
        ids: ids of the variants.
        sources: what they are made from.
        staging: where their files go.
        jobs: how many at a time.

    Raises:
        ExportError: a variant cannot be made; the others are abandoned.
    """
    folders = {id_: staging.folder(id_) for id_ in ids}
    jobs = min(jobs, len(ids))
    model = _pickled(sources) if jobs > 1 else None
    if model is None:
        for id_ in ids:
            yield make(id_, replace(sources, folder=folders[id_]))
    else:
        yield from _in_processes(folders, _Stored.of(sources, model), jobs)


def _pickled(sources: Sources) -> bytes | None:
    """The torch model for other processes; None if it cannot be pickled (a class defined in a script, a notebook or a function)."""
    try:
        model = pickle.dumps(sources.model)
    except (pickle.PicklingError, AttributeError, TypeError):
        model = None
    if model is None or needs_main(model):
        echo("this network cannot be sent to other processes: its variants are made one after the other", err=True)
        return None
    return model


@dataclass(frozen=True)
class _Stored:
    """`Sources` for another process: large arrays are in files, which it maps instead of copying."""

    sources: Sources  # without the fields below
    folder: Path
    model: bytes
    drawn: dict[str, Any]
    outputs: tuple[str, ...]
    further: tuple[str, ...]

    @classmethod
    def of(cls, sources: Sources, model: bytes) -> _Stored:
        folder = Path(tempfile.mkdtemp(prefix="shared-", dir=sources.scratch))
        reference, calibration = sources.reference, sources.calibration
        arrays = {
            "images": reference.images,
            "labels": reference.labels,
            "golden": reference.golden,
            **{f"output-{name}": values for name, values in reference.outputs.items()},
            **{f"further-{name}": values for name, values in reference.further.items()},
            "calibration": calibration.images,
            "unlabeled": sources.unlabeled,
        }
        for name, array in arrays.items():
            if array is not None:
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
        blank = np.zeros((1, 1, 1, 3), np.uint8)
        empty = replace(
            sources,
            model=None,
            unlabeled=None,
            shared=Shared(),
            calibration=Calibration(calibration.model, blank, calibration.folder),
            reference=ReferenceOutputs(reference.task, blank, None, {}, np.zeros(1, np.int64)),
        )
        return cls(empty, folder, model, calibration.drawn, tuple(reference.outputs), tuple(reference.further))

    def load(self) -> Sources:
        """Return the sources."""
        sources = self.sources
        reference = ReferenceOutputs(
            sources.reference.task,
            self._array("images"),
            self._array("labels") if (self.folder / "labels.npy").exists() else None,
            {name: np.array(self._array(f"output-{name}")) for name in self.outputs},
            np.array(self._array("golden")),
            {name: self._array(f"further-{name}") for name in self.further},
        )
        calibration = self._array("calibration")
        return replace(
            sources,
            model=pickle.loads(self.model),
            unlabeled=self._array("unlabeled") if (self.folder / "unlabeled.npy").exists() else None,
            reference=reference,
            calibration=Calibration(sources.calibration.model, calibration, sources.calibration.folder, self.drawn),
            scratch=Path(tempfile.mkdtemp(prefix="job-", dir=self.folder)),
        )

    def _array(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return array


def _in_processes(folders: dict[str, Path], stored: _Stored, jobs: int) -> Iterator[Variant]:
    context = multiprocessing.get_context("spawn")  # a fork of a process with running threads may hang
    messages: Any = context.Queue()
    # Variants that need the ranges come last: the first of them collects the ranges while the others have work.
    order = sorted(folders, key=lambda id_: split(id_)[1] == "int8")
    # The sources are passed in a file: sent through the pipe, they would delay the start of the next process.
    at = stored.folder / "sources.pickle"
    at.write_bytes(pickle.dumps(stored))
    pool = ProcessPoolExecutor(jobs, context, _begin, (os.getpid(), at, messages))
    try:
        with without_main():
            pending: set[Future[Variant]] = {pool.submit(_work, id_, folders[id_]) for id_ in order}
        with shown.progress("variants", len(order)) as advance:
            current: dict[str, str] = {}
            while pending:
                done, pending = wait(pending, _TICK_SECONDS, FIRST_COMPLETED)
                _listen(messages, current)
                for future in done:
                    variant = future.result()
                    current.pop(variant.id, None)
                    advance(1)
                    yield variant
                advance(0, "; ".join(f"{id_}: {what}" for id_, what in current.items()))
        pool.shutdown()
    except BrokenProcessPool as error:
        raise ExportError(
            "a process that was making a variant died, perhaps for lack of memory", "try again with --jobs 1"
        ) from error
    finally:
        _end(pool)


def _listen(messages: Any, current: dict[str, str]) -> None:
    while True:
        try:
            id_, what = messages.get_nowait()
        except queue.Empty:
            return
        current[id_] = what


def _end(pool: ProcessPoolExecutor) -> None:
    """Stop the processes that still run: terminate them, so that they stop builders that they started; then kill them."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()


_SOURCES: list[Sources] = []  # in a worker process: loaded once, so that its variants share objects
_MESSAGES: list[Any] = []


def _begin(parent: int, at: Path, messages: Any) -> None:
    """Initialize a worker process.

    Args:
        parent: the process that started it.
        at: the file with the pickled sources, in the export's temporary folder.
        messages: the queue for progress messages.
    """
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group: the parent decides
    signal.signal(signal.SIGTERM, _leave)
    stored: _Stored = pickle.loads(at.read_bytes())
    _SOURCES.append(stored.load())
    tempfile.tempdir = str(_SOURCES[0].scratch)  # the export deletes it, also after a worker was killed
    _MESSAGES.append(messages)


def _leave(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # unwinds the stack: temporary files are deleted and started processes are stopped


def _work(id_: str, folder: Path) -> Variant:
    with shown.relayed(lambda what: _MESSAGES[0].put((id_, what))):
        return make(id_, replace(_SOURCES[0], folder=folder))
