"""Options, progress, report and record of an engine build: the data between the builder's process and the rest of edgekit."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgekit.errors import ExportError

Flavor = Literal["trt", "trt-rtx"]
Precision = Literal["fp32", "fp16", "int8"]
BUILD_SCHEMA = 1
# Compute capabilities for which TensorRT for RTX builds without a GPU: Turing, Ampere, Ada, Blackwell; not Orin (8.7) and Hopper (9.0).
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
# Default compute capabilities for TensorRT for RTX: Ampere, Ada, Blackwell. Turing (7.5) must be requested, because with it nothing
# is computed in INT8, and FP32 matrix products are refused.
COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BatchRange(_Frozen):
    """The batch sizes of an engine: from 1 to `max`, or, if all three are equal, a static batch.

    Attributes:
        min, max: the bounds; the session splits larger batches.
        opt: the size for which kernels are chosen.
    """

    min: int = Field(1, ge=1)
    opt: int = Field(1, ge=1)
    max: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> BatchRange:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"the batch sizes are not in order: min {self.min}, opt {self.opt}, max {self.max}")
        if self.min not in {1, self.max}:
            raise ValueError(f"the smallest batch is {self.min}: it must be 1, or all three equal")
        return self


class BuildOptions(_Frozen):
    """How to build an engine. These options, the ONNX file and the machine determine the engine.

    Attributes:
        flavor: classic TensorRT or TensorRT for RTX.
        precision: the lowest precision of the ONNX file; a weakly typed build sets its flags from it.
        batch: the optimization profile of a graph with a free batch axis; ignored for a fixed batch.
        compute_capabilities: of the GPUs to build for, such as "8.6"; only TensorRT for RTX. Empty: this machine's GPU.
        flags: names of other members of `BuilderFlag` to set.
    """

    flavor: Flavor
    precision: Precision
    batch: BatchRange = BatchRange()
    compute_capabilities: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @field_validator("compute_capabilities")
    @classmethod
    def _known(cls, capabilities: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(capabilities), key=lambda c: (len(c), c)))


class EngineLayer(_Frozen):
    """A layer of a built engine: a kernel, or several that run as one.

    Attributes:
        kind: TensorRT's name of its kind (correlation, kgen, CaskConvolution, …).
        inputs, weights, outputs: their types, in lower case (int8, half, float, uint8, …).
        nodes: names of the ONNX nodes that it computes.
    """

    kind: str
    inputs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class BuildReport(_Frozen):
    """The result of a build.

    Attributes:
        tensorrt: the exact version.
        typing: strong (the ONNX file decides each type) or weak (flags decide).
        flags: names of the builder flags that were set.
        profile: shapes of each input as {name: [min, opt, max]}; empty if the graph's are fixed.
        seconds: time of parsing and building, without the start of the process.
        layers: of the engine, in order; empty if `layers_from` is none.
        layers_from: the builder's log (no GPU needed) or the engine inspector.
        quantized: names of the ONNX nodes (convolutions, matrix products) whose input the graph dequantizes.
        int8: those of them that the engine computes from INT8 inputs and INT8 weights.
        warnings: TensorRT's warnings, each once.
    """

    tensorrt: str
    typing: Literal["strong", "weak"]
    flags: tuple[str, ...]
    profile: dict[str, list[list[int]]]
    seconds: float
    engine_bytes: int
    engine_sha256: str
    layers: tuple[EngineLayer, ...]
    layers_from: Literal["log", "inspector", "none"]
    quantized: tuple[str, ...]
    int8: tuple[str, ...]
    warnings: tuple[str, ...]


class BuildError(_Frozen):
    """The error of a failed build: its class name, its message and its hint."""

    kind: str
    message: str
    hint: str


class BuildProgress(_Frozen):
    """One line from the builder's process: its progress (0 to 1) and phase, or the report, or the error."""

    done: float | None = Field(None, ge=0, le=1)
    phase: str = ""
    report: BuildReport | None = None
    error: BuildError | None = None


class EngineRecord(_Frozen):
    """The record beside an engine, NAME.engine.json (not inside the engine: trtexec and DeepStream refuse a prefix).

    Attributes:
        onnx, onnx_sha256: name and digest of the ONNX file.
        machine: the machine that a classic engine depends on (GPU, driver, system); empty for an engine built without a GPU.
        metadata: the ONNX file's metadata: the classes, in the order of the logits, and edgekit's version.
    """

    build_schema: Literal[1] = Field(1, alias="schema")
    onnx: str
    onnx_sha256: str
    options: BuildOptions
    machine: dict[str, str]
    report: BuildReport
    metadata: dict[str, str] = {}

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class BuildPlan(_Frozen):
    """The plan for building an engine on a device on first use, as NAME.json beside the ONNX file NAME.onnx.

    Attributes:
        onnx: for a strongly typed build (classic TensorRT from 10.12 on, TensorRT for RTX), whose types are those of the file.
        weak_onnx: for a weakly typed build (older releases), whose types come from flags; None if it is the same file.
        tensorrt: the releases for which the files are made.
    """

    build_schema: Literal[1] = Field(1, alias="schema")
    onnx: str
    weak_onnx: str | None
    precision: Precision
    batch: BatchRange
    tensorrt: str = ">=8.5,<12"

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def options(self, flavor: Flavor) -> BuildOptions:
        """Return the options for building with one flavor, for this machine's GPU."""
        return BuildOptions(flavor=flavor, precision=self.precision, batch=self.batch)


def check_capabilities(capabilities: tuple[str, ...]) -> None:
    """Refuse compute capabilities that TensorRT for RTX does not support.

    Raises:
        ExportError: some are not supported; the message names them.
    """
    if unknown := [c for c in capabilities if c not in RTX_CAPABILITIES]:
        orin = "; for a Jetson use --target trt" if {"8.7", "7.2", "11.0"} & set(unknown) else ""
        raise ExportError(
            f"TensorRT for RTX cannot build for compute capability {', '.join(unknown)}",
            f"choose from {', '.join(RTX_CAPABILITIES)}{orin}",
        )


def parse_capabilities(text: str) -> tuple[str, ...]:
    """Parse a list such as `8.6,8.9` for `BuildOptions`.

    Raises:
        ExportError: TensorRT for RTX does not support one of them.
    """
    capabilities = tuple(part.strip() for part in text.split(","))
    check_capabilities(capabilities)
    return capabilities
