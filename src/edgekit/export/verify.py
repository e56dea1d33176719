"""Verification: compare each variant with the trained model, in the runtime that will serve it if it can run on this machine.

Float variants must predict the trained model's class on every golden image, in every batch size. All variants must keep the accuracy within
`max_drop` and compute the same for every batch size (see `batches`). `edgekit.parity` holds the tolerances of the outputs.

What a model's outputs are, how they are scored and how two are compared is said by its task (`edgekit.tasks`). Without labels the loss is
estimated from the trained model's own confidence (`Task.expected_drop`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.bundle import Accuracy, Bundle, BundleFile, Parity, Precision, Variant
from edgekit.errors import BundleError, ExportError
from edgekit.export.batches import BatchCheck, compare_batches
from edgekit.parity import finite_fault, shape_fault
from edgekit.progress import progress
from edgekit.runtimes import load, open_session, why_not
from edgekit.runtimes.session import run_in_batches
from edgekit.shares import difference, hundredths, percent
from edgekit.targets import find_runtime
from edgekit.tasks import EMBEDDING, Outputs, Task
from edgekit.tasks.task import Likeness, rows

GOLDEN = 16
Run = Callable[
    [NDArray[np.uint8]], Outputs
]  # images (n, h, w, 3) -> the required outputs of a task by name, and maybe others
_RACES = (
    "on this CPU, OpenVINO's outputs vary from run to run with several threads and batches of several images; its figures are from one "
    "thread: run it with --threads 1, or one image at a time"
)
_ALIKE = 0.9  # below this agreement, a variant that passes gets a note


def unverified(
    target: str, runtime: str, precision: Precision, folder: Path, files: Iterable[str], **more: Any
) -> Variant:
    """Return the record of files that were just written, and that nothing has run yet.

    Args:
        target: its name, of which the variant's is made.
        runtime: its name.
        precision: of the files.
        folder: the bundle's.
        files: their names in it.
        more: further fields of the variant.
    """
    return Variant(
        id=f"{target}-{precision}",
        runtime=runtime,
        precision=precision,
        files=[BundleFile.of(folder, file) for file in files],
        executed=False,
        status="unexecuted",
        **more,
    )


@dataclass(frozen=True)
class AccuracyBounds:
    """The bounds that a variant must meet.

    Attributes:
        max_drop: the largest loss of the task's metric (accuracy) that passes, in percentage points.
        min_agreement: the least share of the evaluation set on which it must decide as the trained model does.
    """

    max_drop: float = 1.0
    min_agreement: float = 0.0

    def loses(self, drop: float | None) -> bool:
        """Whether a loss of accuracy, as a share, is too large; None, where it was not measured, is not."""
        return drop is not None and drop * 100 > self.max_drop + 1e-9

    def differs(self, agreement: float | None) -> bool:
        """Whether too small a share of the images is decided as by the trained model; None, where it was not measured, is not."""
        return agreement is not None and agreement < self.min_agreement - 1e-9


@dataclass(frozen=True)
class ReferenceOutputs:
    """The trained model's own outputs, in float, before any conversion.

    Attributes:
        task: what it answers.
        images: the evaluation set, uint8 (n, h, w, 3).
        labels: its labels in the task's form, of classification int64 (n,); None where there are none.
        outputs: those that the task requires, float32 with n rows, by name.
        golden: rows of the golden images, spread over the task's groups, such as classes.
        further: other outputs, of the golden images alone; empty where the export has none.
    """

    task: Task
    images: NDArray[np.uint8]
    labels: NDArray[Any] | None
    outputs: Outputs
    golden: NDArray[np.int64]
    further: Outputs = field(default_factory=dict)

    @classmethod
    def of(
        cls, task: Task, model: nn.Module | Run, images: NDArray[np.uint8], labels: NDArray[Any] | None
    ) -> ReferenceOutputs:
        """Run a model on the evaluation set.

        Args:
            task: what the model answers.
            model: a network from uint8 images (n, h, w, 3) to the task's outputs, or a function that gives them.
            images, labels: the evaluation set; labels may be None.

        Raises:
            ExportError: an output is not finite numbers.
        """
        run = runner(model, task) if isinstance(model, nn.Module) else model
        parts = []
        with progress("trained", len(images), unit="images") as advance:
            for start in range(0, len(images), size := _batch_size(images, task)):
                found = run(np.ascontiguousarray(images[start : start + size]))
                parts.append([found[name] for name in task.required])
                advance(len(images[start : start + size]))
        outputs = dict(zip(task.required, map(np.concatenate, zip(*parts, strict=True)), strict=True))
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                raise ExportError(
                    finite_fault(name, "the trained model's"),
                    "train it again with a lower learning rate",
                )
        golden = class_spread(task.groups(outputs, labels), GOLDEN)
        every = run(np.ascontiguousarray(images[golden]))
        further = {name: every[name] for name in task.optional if name in every}
        return cls(task, images, labels, outputs, golden, further)

    @property
    def accuracy(self) -> Accuracy | None:
        """Of the trained model; None where there are no labels."""
        return None if self.labels is None else _accuracy(self.task, self.outputs, self.labels)

    def subset(self, chosen: NDArray[np.int64]) -> ReferenceOutputs:
        """Return the reference for some rows of the evaluation set, in their order; the golden ones must be among them."""
        position = {int(row): i for i, row in enumerate(chosen)}
        return replace(
            self,
            images=np.ascontiguousarray(self.images[chosen]),
            labels=None if self.labels is None else self.labels[chosen],
            outputs=rows(self.outputs, chosen),
            golden=np.array([position[int(row)] for row in self.golden], np.int64),
        )

    @property
    def golden_outputs(self) -> dict[str, NDArray[np.float32]]:
        """The outputs for the golden images, by name."""
        return {**rows(self.outputs, self.golden), **self.further}


def runner(model: nn.Module, task: Task, *, embedding: bool = False) -> Run:
    """A function that runs a network on the CPU: uint8 images (n, h, w, 3) -> the task's outputs, float32 by name.

    Args:
        model: the network; it is not changed. It gives the main output, or a tuple of all required ones in their order.
        task: what it answers.
        embedding: also give what the network's last linear layer sees, (n, d).

    Raises:
        ExportError: the network's last layer is not a linear one (raised when the function is called).
    """
    model = copy.deepcopy(model).cpu().float().eval()

    def run(batch: NDArray[np.uint8]) -> Outputs:
        images = torch.from_numpy(np.array(batch))
        with torch.inference_mode():
            found, seen = with_embedding(model, images) if embedding else (model(images), None)
        outputs = (found,) if isinstance(found, torch.Tensor) else found
        named = {name: output.numpy() for name, output in zip(task.required, outputs, strict=True)}
        return named if seen is None else {**named, EMBEDDING: seen.numpy()}

    return run


def with_embedding(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits (n, classes) of some images, and what the linear layer that makes them sees (n, d), not normalized.

    Raises:
        ExportError: the last layer is not a linear one, or it sees something else than one vector an image.
    """
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.append((inputs[0], output))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        logits = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    # Whatever follows the last layer (a cast to the type that it has) leaves its numbers.
    if not seen or seen[-1][0].ndim != 2 or seen[-1][1].shape != logits.shape or not torch.equal(seen[-1][1], logits):
        raise ExportError(
            "the network has no embedding to give: its logits do not come from a linear layer over one vector an image",
            "export it without --embedding",
        )
    return logits, seen[-1][0]


def class_spread(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of `count` images (or all, if there are fewer), taking classes in turn and each class's images in order."""
    queues = [list(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    rows: list[int] = []
    while len(rows) < min(count, len(labels)):
        for queue in queues:
            if queue and len(rows) < count:
                rows.append(int(queue.pop(0)))
    return np.array(rows, dtype=np.int64)


def verify(variant: Variant, folder: Path, reference: ReferenceOutputs, bounds: AccuracyBounds) -> Variant:
    """Run a variant and return it with parity, accuracy, drop and status.

    Args:
        variant: its files are in `folder`.
        folder: folder of the bundle.
        reference: the trained model's outputs.
        bounds: the bounds that it must meet.
    """
    if missing := why_not(variant.runtime):
        unexecuted = variant.model_copy(update={"executed": False, "status": "unexecuted"})
        return unexecuted.noted(f"not run here: {missing.message}")
    runtime = find_runtime(variant.runtime)
    # Nothing is timed here, and other variants may be made at the same time.
    settings = {**variant.settings, **(runtime.checking if runtime else {})}
    path = folder / variant.files[0].path
    try:
        outputs, further, batches = _answers(variant, path, settings, reference)
    except BundleError as error:
        raise ExportError(f"{variant.id}: exported, but its runtime cannot run it: {error.message}") from error
    golden = np.ascontiguousarray(reference.images[reference.golden])
    expected = outputs[reference.task.main][reference.golden]
    if exact_threads(variant) and not _same_with_threads(variant, path, settings, golden, expected, reference.task):
        variant = variant.noted(_RACES)
    return judge(variant, outputs, further, reference, bounds, batches)


def _answers(
    variant: Variant, path: Path, settings: dict[str, str], reference: ReferenceOutputs
) -> tuple[Outputs, Outputs, BatchCheck]:
    """A variant's required outputs of the evaluation set, its further ones of the golden images, and how it depends on the batch size."""
    task, images, size = reference.task, reference.images, _batch_size(reference.images, reference.task)
    golden = np.ascontiguousarray(images[reference.golden])
    session = open_session(variant.runtime, path, threads=exact_threads(variant), settings=settings, task=task)
    try:
        with progress(variant.id, len(images), unit="images") as advance:
            only = "" if task.others else task.main
            found = run_in_batches(session, images, size, only=only, advance=advance)
        outputs = {name: found[name] for name in task.required}
        every = run_in_batches(session, golden, len(golden)) if reference.further else {}
        also = {} if session.batch else {size: rows(outputs, reference.golden)}
        batches = compare_batches(session, golden, rows(reference.outputs, reference.golden), task, also)
        return outputs, {name: every[name] for name in reference.further if name in every}, batches
    finally:
        session.close()


def check_batches(bundle: Bundle, variant: Variant) -> BatchCheck:
    """Check on the golden images, in the variant's runtime on this machine, that it computes the same for every batch size.

    Args:
        bundle: an opened bundle.
        variant: one of its variants.

    Raises:
        RuntimeMissing, BundleError: see `edgekit.runtimes.load`.
    """
    trained = bundle.golden_outputs()
    session = load(bundle, variant, threads=exact_threads(variant))
    try:
        return compare_batches(session, trained.pop("images"), trained, bundle.task)
    finally:
        session.close()


def exact_threads(variant: Variant) -> int:
    """The number of threads for reproducible outputs of a variant; 0: the runtime decides (see `Runtime.exact_threads`)."""
    runtime = find_runtime(variant.runtime)
    return runtime.exact_threads.get(variant.precision, 0) if runtime else 0


def _same_with_threads(
    variant: Variant,
    path: Path,
    settings: dict[str, str],
    images: NDArray[np.uint8],
    expected: NDArray[np.float32],
    task: Task,
) -> bool:
    """Whether a variant gives the same outputs three times with the runtime's default number of threads."""
    session = open_session(variant.runtime, path, settings=settings, task=task)
    try:
        close = 1e-3 * float(np.abs(expected).max())
        again = (run_in_batches(session, images, len(images), only=task.main)[task.main] for _ in range(3))
        return all(np.abs(output - expected).max() <= close for output in again)
    finally:
        session.close()


def judge(
    variant: Variant,
    outputs: Outputs,
    further: Outputs,
    reference: ReferenceOutputs,
    bounds: AccuracyBounds,
    batches: BatchCheck | None = None,
) -> Variant:
    """Judge a variant by its outputs; return it with parity, accuracy, drop and status.

    Args:
        variant: the variant that gave them.
        outputs: its outputs of the evaluation set that the task requires.
        further: its other outputs, of the golden images; a missing one that the trained model has is a fault.
        reference: the trained model's answers.
        bounds: the bounds that it must meet.
        batches: how its outputs depend on the batch size; None if that was not checked.
    """
    task = reference.task
    near, faults = _compared(variant, {**rows(outputs, reference.golden), **further}, reference, batches)
    broken = [finite_fault(name) for name, values in outputs.items() if not np.isfinite(values).all()]
    agreement, accuracy, drop = 0.0, None, None
    if broken:
        faults = [*broken, *faults]
    else:
        agreement = float(task.agreement(outputs, reference.outputs).mean())
        drop, accuracy = _drop(outputs, reference, agreement)
        lost, alike = _too_far(task, drop, accuracy is not None, agreement, bounds)
        faults = [lost, alike, *faults]
    if batches is not None and not batches.agree:
        faults.append(batches.fault())
    faults = list(dict.fromkeys(fault for fault in faults if fault))
    return variant.model_copy(
        update={
            "executed": True,
            "status": "rejected" if faults else "verified",
            "parity": None if broken or near is None else _parity(task, near, batches),
            "accuracy": accuracy,
            "agreement": agreement,
            "drop": drop,
            "drop_is": "measured" if accuracy is not None else "expected",
        }
    ).noted(f"rejected: {' and '.join(faults)}" if faults else _differs(agreement))


def _drop(outputs: Outputs, reference: ReferenceOutputs, agreement: float) -> tuple[float, Accuracy | None]:
    """What a variant loses of the metric, as a share, and its own accuracy; None without labels, where the loss is the expected one."""
    if reference.labels is None or reference.accuracy is None:
        return reference.task.expected_drop(outputs, reference.outputs), None
    accuracy = _accuracy(reference.task, outputs, reference.labels)
    accuracy.agreement = agreement
    return reference.task.dropped(reference.accuracy.figures, accuracy.figures), accuracy


def _too_far(task: Task, drop: float, measured: bool, agreement: float, bounds: AccuracyBounds) -> tuple[str, str]:
    """What is beyond the bounds, in a clause each."""
    lost = alike = ""
    if bounds.loses(drop):
        loses = "loses" if measured else "is expected to lose"
        of = " or ".join(task.metrics[name] for name in task.kept) if measured and task.kept else task.quality
        lost = f"it {loses} {hundredths(drop, 2)} points of {of}, more than {bounds.max_drop:g}"
    if bounds.differs(agreement):
        alike = f"it decides as the trained model does on {percent(agreement)} of the images, fewer than {percent(bounds.min_agreement)}"
    return lost, alike


def _differs(agreement: float) -> str:
    """The note on a variant that passes but is another classifier: as good on average, but not image by image."""
    if agreement >= _ALIKE:
        return ""
    return f"its class differs from the trained model's on {percent(difference(1, agreement))} of the images (--min-agreement limits this)"


def _compared(
    variant: Variant, got: Outputs, reference: ReferenceOutputs, batches: BatchCheck | None
) -> tuple[Likeness | None, list[str]]:
    """How near a variant's outputs for the golden images come, None where they cannot be compared; and what is wrong with them."""
    task, trained = reference.task, reference.golden_outputs
    faults = [
        shape_fault(name, got[name], values) if name in got else f"it gives no {name}"
        for name, values in trained.items()
    ]
    fit = {name: values for (name, values), fault in zip(trained.items(), faults, strict=True) if not fault}
    if not set(task.required) <= fit.keys():
        return None, faults
    near = task.compare(got, fit)
    agreed = min(near.agreement, batches.agreement if batches else 1.0)
    return near, [*task.golden_fault(replace(near, agreement=agreed), variant.precision, exporting=True), *faults]


def _parity(task: Task, near: Likeness, batches: BatchCheck | None) -> Parity:
    """The record of the golden images."""
    main = near.outputs[task.main]
    parity = Parity(
        samples=main.samples,
        agreement=near.agreement,
        max_abs_diff=main.max_abs_diff,
        sqnr_db=main.sqnr_db if np.isfinite(main.sqnr_db) else None,
        **task.figures(near),
    )
    if batches is not None:
        parity.batches = list(batches.sizes)
        parity.batches_sqnr_db = batches.sqnr_db if np.isfinite(batches.sqnr_db) else None
    return parity


def _accuracy(task: Task, outputs: Outputs, labels: NDArray[Any]) -> Accuracy:
    return Accuracy(metric=task.metric, samples=len(labels), **task.score(outputs, labels))


def _batch_size(images: NDArray[np.uint8], task: Task) -> int:
    """The batch size of a run: all images, or about 4 million pixels, or as many as the task allows."""
    return min(len(images), max(1, min(task.batch, 2**22 // (images.shape[1] * images.shape[2]))))
