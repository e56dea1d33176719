"""The whole export of one model: float ONNX, what is made from it, verification, and the bundle."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit import __version__
from edgekit.bundle import Bundle, BundleFile, Manifest, Precision, RuntimeName, Tensor, Variant, write_manifest
from edgekit.errors import ExportError, GateFailed, near
from edgekit.export import openvino, pack
from edgekit.export.int8 import Int8
from edgekit.export.onnx import INPUT, OUTPUT, export_onnx
from edgekit.export.verify import Reference, verify
from edgekit.files import digest_of, sha256
from edgekit.machine import cpu_features, this_machine
from edgekit.preprocess import Preprocessing
from edgekit.result import now

# target -> the precisions that it has, and those that are made where none is asked for.
TARGETS: dict[str, tuple[Precision, ...]] = {"onnx": ("fp32", "int8"), "openvino": ("fp32", "fp16", "int8")}
DEFAULTS: dict[str, tuple[Precision, ...]] = {"onnx": ("fp32", "int8"), "openvino": ("fp16", "int8")}
_ORDER = [f"{target}-{precision}" for target, has in TARGETS.items() for precision in has]
_RUNTIMES: dict[str, RuntimeName] = {"onnx": "onnxruntime", "openvino": "openvino"}


@dataclass
class Sources:
    """What every variant of one export is made from and held against."""

    float_onnx: Path
    int8: Int8
    reference: Reference
    max_drop: float
    folder: Path


def export_classifier(
    model: nn.Module,
    *,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    calibration: NDArray[np.uint8],
    evaluation: tuple[NDArray[np.uint8], NDArray[np.int64]],
    output: Path,
    targets: Sequence[str] = ("onnx", "openvino"),
    precisions: Sequence[str] = (),
    max_drop: float = 1.0,
    name: str = "model",
    provenance: dict[str, Any] | None = None,
) -> Bundle:
    """Convert, quantise, verify and bundle a classifier.

    A bundle of the same weights and evaluation set that is in `output` already keeps its other variants, and those asked for
    whose inputs have not changed are not made again. Whether all passed is the caller's to ask: see `gate`.

    Args:
        model: uint8 images (n, s, s, 3) -> float32 logits (n, classes), s being the preprocessing's image size.
        classes: names, in the order of the logits.
        preprocessing: how an image file becomes such pixels; written into the bundle.
        calibration: uint8 images (m, s, s, 3) without labels, for the ranges of INT8.
        evaluation: uint8 images (k, s, s, 3) and labels int64 (k,) to verify on; the golden images are drawn from them.
        output: the bundle's folder.
        targets: of `TARGETS`.
        precisions: of those that the targets have; none means `DEFAULTS`.
        max_drop: the largest loss of accuracy that passes, in percentage points.
        name: of the model.
        provenance: what else the bundle should say about where the model came from.

    Raises:
        ExportError: a target or precision is unknown, the network cannot be converted, or the folder cannot be written.
        RuntimeMissing: a target's own converter is not installed.
    """
    wanted = plan(targets, precisions)
    images, labels = evaluation
    size = preprocessing.image_size
    _check(images, labels, calibration, size, len(classes))
    old = pack.existing(output)
    with tempfile.TemporaryDirectory(prefix="edgekit-export-") as scratch:
        float_onnx = Path(scratch) / "model.onnx"
        export_onnx(model, float_onnx, image_size=size, classes=list(classes))
        # What two exports must share for their variants to stand in one bundle; the graph holds weights and normalisation.
        same = {
            "graph": sha256(float_onnx),
            "classes": list(classes),
            "preprocessing": preprocessing.model_dump(mode="json"),
            "evaluation": _digest_of_arrays(images, labels),
        }
        keys = {id_: _key(id_, same, calibration, max_drop) for id_ in wanted}
        kept = _kept(old, digest_of(same), keys)
        if old is not None and set(keys) <= set(kept):
            return old
        reference = Reference.of(model, images, labels)
        int8 = Int8(float_onnx, calibration, Path(scratch))
        with pack.replaced(output) as folder:
            sources = Sources(float_onnx, int8, reference, max_drop, folder)
            variants = [pack.carry(v, old, folder) for v in kept.values()] if old is not None else []
            variants += [_make(id_, sources) for id_ in wanted if id_ not in kept]
            rows = reference.golden
            manifest = Manifest(
                name=name,
                created=now(),
                edgekit=__version__,
                classes=list(classes),
                preprocessing=preprocessing,
                input=Tensor(name=INPUT, dtype="uint8", layout="NHWC", shape=[None, size, size, 3]),
                outputs=[Tensor(name=OUTPUT, dtype="float32", layout="NC", shape=[None, len(classes)])],
                golden=pack.write_golden(folder, np.ascontiguousarray(images[rows]), reference.logits[rows]),
                accuracy=reference.accuracy,
                variants=sorted(variants, key=lambda v: _ORDER.index(v.id)),
                provenance={
                    **(provenance or {}),
                    "machine": this_machine().model_dump(mode="json"),
                    "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
                    "max_drop": max_drop,
                    # What the next export compares with its own, to know what it may keep.
                    "graph": same["graph"],
                    "inputs": digest_of(same),
                    "variants": {v.id: keys.get(v.id) or _recorded(old, v.id) for v in variants},
                },
            )
            write_manifest(folder, manifest)
    return Bundle.open(output)


def plan(targets: Iterable[str], precisions: Sequence[str] = ()) -> list[str]:
    """The ids of the variants that a user asks for, in a fixed order.

    Raises:
        ExportError: a target or precision is unknown, or a target has none of the precisions.
    """
    ids = []
    for target in dict.fromkeys(targets):
        if target not in TARGETS:
            raise ExportError(f"unknown target {target}", near(target, TARGETS) or f"accepted: {', '.join(TARGETS)}")
        chosen = [p for p in TARGETS[target] if p in precisions] if precisions else list(DEFAULTS[target])
        ids += [f"{target}-{precision}" for precision in chosen]
    had = {precision for target in targets for precision in TARGETS[target]}
    if lacking := [p for p in precisions if p not in had]:
        raise ExportError(
            f"no target asked for has the precision {', '.join(lacking)}",
            "; ".join(f"{target} has {', '.join(has)}" for target, has in TARGETS.items()),
        )
    return ids


def gate(bundle: Bundle, ids: Iterable[str]) -> None:
    """Fail where a variant that was asked for was rejected.

    Raises:
        GateFailed: naming them and why.
    """
    rejected = [v for v in bundle.manifest.variants if v.id in set(ids) and v.status == "rejected"]
    if rejected:
        reasons = "; ".join(f"{v.id}: {v.note}" for v in rejected)
        raise GateFailed(
            f"{len(rejected)} of the variants did not pass: {reasons}",
            "the bundle is complete and marks them; more --calibration-images or a larger --max-drop may let them pass",
        )


def _make(id_: str, sources: Sources) -> Variant:
    target, _, precision = id_.partition("-")
    if precision == "int8":
        return sources.int8.best(target, sources.folder, sources.reference, sources.max_drop)
    if target == "onnx":
        names = ["model.onnx"]
        (sources.folder / names[0]).write_bytes(sources.float_onnx.read_bytes())
    else:
        names = [f"model.{precision}.xml", f"model.{precision}.bin"]
        openvino.write_ir(sources.float_onnx, sources.folder / names[0], half=precision == "fp16")
    variant = Variant(
        id=id_,
        runtime=_RUNTIMES[target],
        precision=cast(Precision, precision),
        files=[BundleFile.of(sources.folder, name) for name in names],
        settings=openvino.SETTINGS if target == "openvino" else {},
        executed=False,
        status="unexecuted",
    )
    return verify(variant, sources.folder, sources.reference, sources.max_drop)


def _key(id_: str, same: dict[str, Any], calibration: NDArray[np.uint8], max_drop: float) -> str:
    """A digest of everything that a variant depends on: where it has not changed, neither has the variant."""
    machine = this_machine()
    inputs = {**same, "id": id_, "edgekit": __version__, "packages": machine.packages, "max_drop": max_drop}
    if id_.endswith("int8"):
        inputs |= {"calibration": _digest_of_arrays(calibration), "isa": cpu_features()}
    return digest_of(inputs)


def _kept(old: Bundle | None, inputs: str, keys: dict[str, str]) -> dict[str, Variant]:
    """The variants of the bundle that is there already which go into the new one as they are."""
    if old is None:
        return {}
    provenance = old.manifest.provenance
    if provenance.get("inputs") != inputs:
        return {}
    return {v.id: v for v in old.manifest.variants if v.id not in keys or _recorded(old, v.id) == keys[v.id]}


def _recorded(old: Bundle | None, id_: str) -> str | None:
    recorded = old.manifest.provenance.get("variants") if old is not None else None
    return recorded.get(id_) if isinstance(recorded, dict) else None


def _digest_of_arrays(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        for part in np.array_split(array, max(1, len(array) // 1024)):  # a memory map is read part by part
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _check(
    images: NDArray[np.uint8], labels: NDArray[np.int64], calibration: NDArray[np.uint8], size: int, classes: int
) -> None:
    for what, array in (("evaluation", images), ("calibration", calibration)):
        if array.dtype != np.uint8 or array.shape[1:] != (size, size, 3) or not len(array):
            raise ExportError(
                f"the {what} images are {array.dtype} {array.shape}, not uint8 (n, {size}, {size}, 3) with n of 1 or more"
            )
    if labels.shape != (len(images),) or labels.min() < 0 or labels.max() >= classes:
        raise ExportError(f"the evaluation labels are not {len(images)} indices into {classes} classes")
