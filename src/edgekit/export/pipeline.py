"""The export of one model: float ONNX, variants, verification, and the bundle."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit import __version__, tasks
from edgekit.bundle import BUNDLE_SCHEMA, Bundle, Manifest, Tensor, Variant, write_manifest
from edgekit.errors import ExportError
from edgekit.export import pack
from edgekit.export.alarms import AlarmRequest, with_alarms
from edgekit.export.catalog import check_batch, in_order, plan, split
from edgekit.export.confidence import ConfidenceRequest, images_for, with_confidence
from edgekit.export.doubts import doubts
from edgekit.export.inputs import ExportOptions, Sources
from edgekit.export.jobs import default_jobs, make_all
from edgekit.export.judged import Judged, Judging, merged, notes, shared
from edgekit.export.reuse import finished_before, recorded_key, reusable, same_thresholds, variant_key
from edgekit.export.speed import with_speed
from edgekit.export.staging import Staging, staged
from edgekit.export.verify import ReferenceOutputs, Run, runner
from edgekit.files import copy_file, digest_of, sha256, written_by_a_library
from edgekit.machine import installed_packages, this_machine
from edgekit.onnx_graph.build import INPUT, arranged, export_onnx, save
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.metadata import label
from edgekit.onnx_graph.prepare import copied, fused
from edgekit.preprocess import Preprocessing
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.fidelity import further
from edgekit.quantize.selection import CalibrationPool, Drawn, digest_of_arrays, draw
from edgekit.result import now
from edgekit.sizes import ImageSize
from edgekit.targets import DEFAULT_TARGETS
from edgekit.tasks import Task
from edgekit.temporary import scratch_folder, temporary_files_in

_LAYOUTS = {1: "N", 2: "NC", 3: "NHW", 4: "NCHW"}  # of an output with so many axes


def export_classifier(
    model: nn.Module | Path,
    *,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    calibration: NDArray[np.uint8] | CalibrationPool,
    evaluation: Judging | None,
    output: Path,
    targets: Sequence[str] = DEFAULT_TARGETS,
    precisions: Sequence[str] = (),
    embedding: bool = False,
    batch: int | None = None,
    jobs: int | None = None,
    timed: bool = True,
    few_images: bool = False,
    name: str = "model",
    provenance: dict[str, Any] | None = None,
    trained: Run | None = None,
    options: ExportOptions | None = None,
    task: str = tasks.DEFAULT,
    confidence: ConfidenceRequest | None = None,
    alarm: AlarmRequest | None = None,
) -> Bundle:
    """Convert, quantize, verify and bundle a classifier, or a model of another task.

    If `output` already holds a bundle of the same weights and evaluation set, its other variants are kept, and requested variants
    whose inputs have not changed are not made again. Neither are those that an interrupted export had finished. To fail if a variant
    was rejected, call `gate` afterwards.

    Args:
        model: uint8 images (n, h, w, 3) -> float32 logits (n, classes), h and w being the preprocessing's; or a float ONNX
            of that form (`image` in, `logits` out, a free batch axis). Of another task, its outputs instead.
        classes: names, in the order of the logits.
        preprocessing: how an image file becomes such pixels; written into the bundle.
        calibration: unlabeled images for INT8, uint8 (m, h, w, 3), all of which are used; or a pool to draw them from.
        evaluation: uint8 images (k, h, w, 3) and labels int64 (k,), or None, for verification; the golden images are drawn from them. None:
            calibration images are held back instead (see `judged`), and the loss of accuracy is estimated (see `verify`).
        output: the bundle's folder.
        targets: names from the table `edgekit.targets`.
        precisions: precisions of the targets; empty: each target's defaults.
        embedding: whether the graphs have a second output, the input of the last linear layer.
        batch: the batch size of the graphs; None: free.
        jobs: how many variants are made at a time, each in its own process; the result does not depend on it. None:
            `jobs.default_jobs`.
        timed: whether INT8 is timed against float, a few seconds for each (see `speed`).
        few_images: whether to allow INT8 calibration with fewer than `selection.FEWEST` images.
        name: of the model.
        provenance: further provenance of the model, for the bundle.
        trained: runs the trained model, if that is not `model` itself (a model given as ONNX).
        options: bounds, and how variants are made; None: the defaults.
        task: what the model answers, a name of `edgekit.tasks`.
        confidence: calibrate the probabilities, and answer unknown about images unlike the known ones; None: neither.
        alarm: of a task whose output is a score: how the score above which an image is anomalous is set; None: it is not.

    Raises:
        ExportError: a target or precision is unknown, there are too few images to calibrate INT8 with, the network cannot be
            converted, or the folder cannot be written.
        RuntimeMissing: a target's own converter is not installed.
    """
    answered = tasks.find(task)
    wanted = plan(targets, precisions)
    check_batch(targets, batch)
    chosen = options or ExportOptions()
    pool = calibration if isinstance(calibration, CalibrationPool) else CalibrationPool.of_images(calibration)
    judged = Judged.of(evaluation, pool)
    if _int8(wanted):
        judged.require_enough(few_images)
    size = preprocessing.image_size
    with staged(output) as staging, scratch_folder("export") as scratch, _written(output, scratch):
        pack.recover(output)  # before looking at what is there
        old = pack.existing(output)
        float_onnx = Path(scratch) / "model.onnx"
        if isinstance(model, nn.Module):
            model = fused(copied(model), size)
        _write_float(model, float_onnx, size, list(classes), embedding, answered)
        label(float_onnx, name=name, classes=classes, preprocessing=preprocessing)
        _check_evaluation(judged, size, answered, classes)
        same = _shared_inputs(float_onnx, judged, batch=batch, classes=classes, preprocessing=preprocessing, task=task)
        keys = {id_: variant_key(id_, same, judged.calibration, chosen) for id_ in wanted}
        reused = reusable(old, digest_of(same), keys, chosen.search_minutes)
        origin = provenance or {}
        request = None if origin.get("random_weights") or not answered.calibrates else confidence
        known, set_on = images_for(request, judged, answered)
        set_by = {"confidence": set_on, "alarm": None if alarm is None else alarm.digest(judged.labeled)}
        if old is not None and set(keys) <= set(reused) and same_thresholds(old, set_by):
            return old
        remaining = [id_ for id_ in wanted if id_ not in reused]
        drawn = _drawn(float_onnx, judged, remaining, size)
        staging.begin(digest_of({**same, "edgekit": __version__, "packages": installed_packages()}))
        reference = _reference(answered, model, trained, float_onnx, judged, embedding, staging)
        sources = Sources(
            float_onnx=float_onnx,
            calibration=Calibration(float_onnx, drawn.images, staging.ranges, drawn.record),
            reference=reference,
            options=chosen,
            folder=Path(scratch),
            scratch=Path(scratch),
            model=model if isinstance(model, nn.Module) else None,
            batch=batch,
            unlabeled=further(judged.calibration, drawn, chosen.recover),
            searches=len(_int8(remaining)),  # interrupted or not
        )
        finished = _made(remaining, keys, sources, staging, jobs)
        with pack.replaced(output) as folder:
            variants = _gathered(old, reused, finished, staging, folder)
            golden = np.ascontiguousarray(judged.images[reference.golden])
            if timed:
                timed_images = np.resize(golden, (batch or 1, *golden.shape[1:]))
                variants = with_speed(variants, folder, float_onnx, timed_images, answered)
            calibrated = with_confidence(variants, folder, float_onnx, known, request, answered)
            alarms = with_alarms(calibrated.variants, folder, float_onnx, alarm, judged.labeled, answered)
            # Nothing is expected of random weights.
            doubtful = [] if origin.get("random_weights") else doubts(reference, classes)
            found = [*doubtful, *notes(variants), *calibrated.notes, *alarms.notes]
            inputs = {
                # The next export compares these with its own inputs, to decide which variants it can keep.
                "graph": same["graph"],
                "inputs": digest_of(same),
                **{key: value for key, value in set_by.items() if value is not None},
                "variants": {v.id: keys.get(v.id) or recorded_key(old, v.id) for v in variants},
            }
            manifest = Manifest(
                bundle_schema=BUNDLE_SCHEMA if calibrated.trained is not None else 2,
                task=task,
                name=name,
                created=now(),
                edgekit=__version__,
                classes=list(classes),
                preprocessing=preprocessing,
                input=Tensor(name=INPUT, dtype="uint8", layout="NHWC", shape=[batch, *size, 3]),
                outputs=_outputs(reference, batch),
                golden=pack.write_golden(folder, golden, reference.golden_outputs),
                accuracy=reference.accuracy,
                confidence=calibrated.trained,
                geometry=calibrated.geometry,
                alarm=alarms.trained,
                variants=in_order(alarms.variants),
                provenance=_provenance(origin, found, judged, chosen) | inputs,
            )
            write_manifest(folder, manifest)
    return Bundle.open(output)


def _int8(ids: Iterable[str]) -> list[str]:
    """Those of the variants that are INT8."""
    return [id_ for id_ in ids if split(id_)[1] == "int8"]


def _check_evaluation(judged: Judged, size: ImageSize, task: Task, classes: Sequence[str]) -> None:
    _check(judged.images, size)
    if judged.labels is not None and (fault := task.labels_fault(judged.labels, len(judged.images), classes)):
        raise ExportError(f"the evaluation labels {fault}")


def _shared_inputs(
    float_onnx: Path,
    judged: Judged,
    *,
    batch: int | None,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    task: str,
) -> dict[str, Any]:
    """The inputs that all variants of a bundle must share; the graph holds weights and normalization."""
    return {
        "graph": sha256(float_onnx),
        "batch": batch,
        "classes": list(classes),
        "preprocessing": preprocessing.model_dump(mode="json"),
        **({} if task == tasks.DEFAULT else {"task": task}),  # which older bundles do not name
        "evaluation": digest_of_arrays(judged.images, *([] if judged.labels is None else [judged.labels])),
    }


def _drawn(float_onnx: Path, judged: Judged, ids: Sequence[str], size: ImageSize) -> Drawn:
    """Draw the calibration images. Embedding the pool is only worth it where a variant is INT8."""
    drawn = draw(float_onnx, judged.calibration, "clusters" if _int8(ids) else "random")
    _check(drawn.images, size, "calibration")
    if overlap := shared(drawn.images, judged.images):
        drawn.record["also_judged_on"] = overlap
    return drawn


def _made(
    ids: Sequence[str], keys: dict[str, str], sources: Sources, staging: Staging, jobs: int | None
) -> dict[str, Variant]:
    """Make the variants that an interrupted export had not finished; return all of them."""
    finished = finished_before(ids, keys, staging, sources.options.search_minutes)
    missing = [id_ for id_ in ids if id_ not in finished]
    for variant in make_all(missing, sources, staging, jobs or default_jobs(len(missing))):
        staging.finish(variant, keys[variant.id])
        finished[variant.id] = variant
    return finished


def _outputs(reference: ReferenceOutputs, batch: int | None) -> list[Tensor]:
    """The outputs of the graphs, for the manifest."""
    return [
        Tensor(name=name, dtype="float32", layout=_LAYOUTS[value.ndim], shape=[batch, *value.shape[1:]])
        for name, value in reference.golden_outputs.items()
    ]


def _provenance(origin: dict[str, Any], found: Sequence[str], judged: Judged, options: ExportOptions) -> dict[str, Any]:
    """Where the bundle comes from, and what it was judged by and on.

    Args:
        origin: the model's own provenance.
        found: the notes of this export.
        judged: the images that the variants were judged on.
        options: the bounds.
    """
    return {
        **origin,
        "notes": merged(origin.get("notes", []), found),
        "judged_on": judged.describe(),
        "machine": this_machine().model_dump(mode="json"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "max_drop": options.max_drop,
        "min_agreement": options.min_agreement,
    }


@contextmanager
def _written(output: Path, scratch: Path) -> Iterator[None]:
    """Let libraries write temporary files to `scratch`; turn their OSErrors, which name no file, into a one-line error."""
    try:
        with temporary_files_in(scratch), written_by_a_library(scratch):
            yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise ExportError(
            f"{output}: the export cannot write beside it or to {scratch.parent}: {error.strerror or error}",
            "free some space there, or set TMPDIR to a folder with free space",
        ) from error


def _write_float(
    model: nn.Module | Path, path: Path, size: ImageSize, classes: list[str], embedding: bool, task: Task
) -> None:
    """The float ONNX: of a network, or the one that is there already, its outputs in the task's order."""
    if isinstance(model, nn.Module):
        export_onnx(model, path, image_size=size, classes=classes, embedding=embedding, task=task)
        return
    copy_file(model, path)
    if embedding or not arranged(read_onnx(path), task):
        save(read_onnx(path), path, classes, embedding=embedding, task=task)


def _reference(
    task: Task, model: nn.Module | Path, trained: Run | None, float_onnx: Path, judged: Judged, embedding: bool,
    staging: Staging,
) -> ReferenceOutputs:  # fmt: skip
    """The trained model's outputs; taken from an interrupted export if that had computed them."""
    images, labels = judged.images, judged.labels
    kept = staging.arrays() or {}
    outputs = {name: kept[key] for name in task.required if (key := f"output.{name}") in kept}
    further = {name: kept[key] for name in task.optional if (key := f"golden.{name}") in kept}
    if "golden" in kept and len(outputs) == len(task.required):
        return ReferenceOutputs(task, images, labels, outputs, kept["golden"].astype(np.int64), further)
    if trained is None:
        run = (
            runner(model, task, embedding=embedding) if isinstance(model, nn.Module) else _onnx_runner(float_onnx, task)
        )
    else:
        run = trained
    reference = ReferenceOutputs.of(task, run, images, labels)
    arrays: dict[str, NDArray[Any]] = {"golden": reference.golden}
    arrays |= {f"output.{name}": values for name, values in reference.outputs.items()}
    arrays |= {f"golden.{name}": values for name, values in reference.further.items()}
    staging.keep_arrays(arrays)
    return reference


def _onnx_runner(path: Path, task: Task) -> Run:
    """Run a float ONNX in ONNX Runtime: the trained model, if it was given only as ONNX."""
    from edgekit.runtimes import open_session

    return open_session("onnxruntime", path, task=task).run_all


def _gathered(
    old: Bundle | None, reused: dict[str, Variant], finished: dict[str, Variant], staging: Staging, folder: Path
) -> list[Variant]:
    """All variants, their files in the bundle's folder: those of the old bundle, then those that were made."""
    variants = [pack.carry(v, old, folder) for v in reused.values()] if old is not None else []
    for variant in finished.values():
        staging.place(variant, folder)
        variants.append(variant)
    return variants


def _check(images: NDArray[np.uint8], size: ImageSize, what: str = "evaluation") -> None:
    if images.dtype != np.uint8 or images.shape[1:] != (*size, 3) or not len(images):
        raise ExportError(
            f"the {what} images are {images.dtype} {images.shape}, not uint8 (n, {size.height}, {size.width}, 3) with n >= 1"
        )


__all__ = ["ConfidenceRequest", "ExportOptions", "Sources", "export_classifier", "plan"]
