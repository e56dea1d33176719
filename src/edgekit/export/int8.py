"""Which INT8: a short list of ways for each target, tried in order in the runtime that will serve it, until one passes.

The order depends on the CPU that the export runs on, since 8-bit weights saturate where there is no INT8 dot product (on a small
ResNet, CIFAR-10, AVX2: agreement with float 94.5 % with 8-bit weights, 98.6 % with 7-bit ones, at the same speed).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import BundleFile, Variant
from edgekit.errors import ExportError
from edgekit.export import openvino
from edgekit.export.calibration import Calibration
from edgekit.export.quantize import FULL, REDUCED, UNSIGNED, Scheme, quantize_onnx, saturates
from edgekit.export.verify import Reference, verify
from edgekit.machine import cpu_features

NNCF = "nncf"
Way = Scheme | str
_X86_NOTE = (
    "verified on a CPU with an INT8 dot product; on x86 without one (no VNNI) its products can saturate and cost accuracy: "
    "`edgekit bench` there compares with the golden tensors, and an export made there avoids it"
)
_SLOW_NOTE = "unsigned weights: exact on every CPU, on x86 without VNNI hardly faster than float"


def ways(target: str) -> list[Way]:
    """What to try for a target on this machine, in order."""
    scheme = REDUCED if saturates() else FULL
    if target == "openvino":
        return [scheme, NNCF]
    return [scheme, UNSIGNED] if saturates() else [scheme]


class Int8:
    """The INT8 variants of one export; calibration and Q/DQ files are shared between the targets.

    Args:
        float_onnx: the float ONNX.
        images: calibration images, uint8 (n, s, s, 3).
        scratch: a folder for what is made on the way.
    """

    def __init__(self, float_onnx: Path, images: NDArray[np.uint8], scratch: Path) -> None:
        self.calibration = Calibration(float_onnx, images, scratch)
        self.scratch = scratch
        self._made: dict[Scheme, tuple[Path, dict[str, Any]]] = {}

    def best(self, target: str, folder: Path, reference: Reference, max_drop: float) -> Variant:
        """The first way that passes, its files in `folder`; where none does, the most accurate one, rejected.

        Raises:
            ExportError: no way leads to a file that runs.
        """
        made: list[tuple[Variant, Path]] = []
        tried: list[dict[str, Any]] = []
        failure: ExportError | None = None
        for i, way in enumerate(ways(target)):
            place = self.scratch / f"{target}-{i}"
            place.mkdir()
            try:
                variant = verify(self._make(target, way, place), place, reference, max_drop)
            except ExportError as error:  # of the tool behind this way; another may do
                failure = error
                tried.append({"way": way if isinstance(way, str) else way.name, "status": "failed", "why": str(error)})
                continue
            made.append((variant, place))
            tried.append(_outcome(variant))
            if variant.status != "rejected":
                break
        if not made:
            assert failure is not None
            raise failure
        chosen, place = max(made, key=lambda m: (m[0].status != "rejected", m[0].accuracy.top1 if m[0].accuracy else 0))
        for file in chosen.files:
            (folder / file.path).write_bytes((place / file.path).read_bytes())
        assert chosen.quantization is not None
        chosen.quantization["tried"] = tried
        return chosen

    def _make(self, target: str, way: Way, folder: Path) -> Variant:
        if isinstance(way, Scheme):
            source, quantization = self._qdq(way)
            name = way.name
            if target == "onnx":
                files = ["model.u8.onnx"]
                (folder / files[0]).write_bytes(source.read_bytes())
            else:
                files = ["model.int8.xml", "model.int8.bin"]
                openvino.write_ir(source, folder / files[0])
        else:
            name = way
            files = ["model.int8.xml", "model.int8.bin"]
            quantization = openvino.quantize_ir(self.calibration, folder / files[0])
        return Variant(
            id=f"{target}-int8",
            runtime="onnxruntime" if target == "onnx" else "openvino",
            precision="int8",
            files=[BundleFile.of(folder, file) for file in files],
            settings=openvino.SETTINGS if target == "openvino" else {},
            quantization={
                **quantization, "way": name, "made_on": {"isa": cpu_features(), "saturates": saturates()},
            },
            executed=False,
            status="unexecuted",
            note=_X86_NOTE if way is FULL else _SLOW_NOTE if way is UNSIGNED else "",
        )  # fmt: skip

    def _qdq(self, scheme: Scheme) -> tuple[Path, dict[str, Any]]:
        if scheme not in self._made:
            path = self.scratch / f"{len(self._made)}.u8.onnx"
            self._made[scheme] = path, quantize_onnx(self.calibration, path, scheme)
        return self._made[scheme]


def _outcome(variant: Variant) -> dict[str, Any]:
    assert variant.quantization is not None
    return {
        "way": variant.quantization["way"],
        "status": variant.status,
        "top1": variant.accuracy.top1 if variant.accuracy else None,
        "agreement": variant.accuracy.agreement if variant.accuracy else None,
        "drop": variant.drop,
    }
