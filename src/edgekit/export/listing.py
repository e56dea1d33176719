"""What can be exported: targets and precisions, and what of it this machine can build and run."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.bundle import Precision, RuntimeName
from edgekit.errors import EdgekitError
from edgekit.export.catalogue import DEFAULTS, RUNTIMES, TARGETS
from edgekit.runtimes import extra, installed, why_not

# target -> the package that must be here to make its files
_CONVERTER: dict[str, RuntimeName] = {"openvino": "openvino", "trt-rtx": "tensorrt-rtx"}
_MADE = {
    "onnx": "ONNX",
    "openvino": "OpenVINO IR",
    "trt": "ONNX and build plan; the engine is built on the device, on first use",
    "trt-rtx": "engine, also without a GPU",
}


@dataclass(frozen=True)
class Possibility:
    """One target in one precision.

    Attributes:
        target, precision: as on the command line.
        default: whether it is made where no precision is asked for.
        runtime: what runs it.
        made: what is made.
        not_built: why it cannot be made on this machine; empty where it can.
        not_run: why it cannot be run, and so verified, on this machine; empty where it can.
    """

    target: str
    precision: Precision
    default: bool
    runtime: RuntimeName
    made: str
    not_built: str
    not_run: str


def possibilities() -> list[Possibility]:
    """Every target in every precision that it has."""
    here = installed()
    found = []
    for target, precisions in TARGETS.items():
        runtime, converter = RUNTIMES[target], _CONVERTER.get(target)
        lacking = converter is not None and here[converter] is None
        not_built = f"{converter} is not installed: the extra [{extra(converter)}]" if converter and lacking else ""
        missing = why_not(runtime)
        found += [
            Possibility(
                target, precision, precision in DEFAULTS[target], runtime, _MADE[target], not_built, _said(missing)
            )
            for precision in precisions
        ]
    return found


def _said(missing: EdgekitError | None) -> str:
    return "" if missing is None else f"{missing.message}: {missing.hint}"
