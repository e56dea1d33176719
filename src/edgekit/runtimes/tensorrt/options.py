"""What an engine is built from and for, and what came out: the contracts between the builder's process and the rest."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgekit.errors import ExportError

Flavor = Literal["trt", "trt-rtx"]
Precision = Literal["fp32", "fp16", "int8"]
BUILD_SCHEMA = 1
# What TensorRT for RTX builds for without a GPU: Turing, Ampere, Ada, Blackwell. Orin (8.7) and Hopper (9.0) are not among them.
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
# GPUs that TensorRT for RTX builds for by default, by compute capability: Ampere, Ada, Blackwell. Turing (7.5) must be asked for: with it
# among them nothing is computed in INT8, and FP32 matrix products are refused.
COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BatchRange(_Frozen):
    """The batch sizes that an engine takes: from 1 on, or, all three the same, a static batch.

    Attributes:
        min, max: the bounds; a larger batch is cut into parts by the session.
        opt: the size that the kernels are chosen for.
    """

    min: int = Field(1, ge=1)
    opt: int = Field(1, ge=1)
    max: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> BatchRange:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"the batch sizes are not in order: min {self.min}, opt {self.opt}, max {self.max}")
        if self.min not in {1, self.max}:
            raise ValueError(f"the least batch is {self.min}: it must be 1, or all three the same")
        return self


class BuildOptions(_Frozen):
    """How to build an engine; with the ONNX and the machine it is all that decides what comes out.

    Attributes:
        flavor: classic TensorRT or TensorRT for RTX.
        precision: the most compact type that the ONNX is meant to be computed in; a weakly typed build takes its flags from it.
        batch: the optimization profile of a graph whose batch axis is free; a graph with a fixed batch ignores it.
        compute_capabilities: of the GPUs to build for, as "8.6"; TensorRT for RTX alone. Empty: the GPU of this machine.
        flags: names of further members of `BuilderFlag` to set.
    """

    flavor: Flavor
    precision: Precision
    batch: BatchRange = BatchRange()
    compute_capabilities: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @field_validator("compute_capabilities")
    @classmethod
    def _known(cls, asked: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(asked), key=lambda c: (len(c), c)))


class EngineLayer(_Frozen):
    """A layer of a built engine: a kernel, or several that run as one.

    Attributes:
        kind: TensorRT's own word for it (correlation, kgen, CaskConvolution, …).
        inputs, weights, outputs: their types, in lower case (int8, half, float, uint8, …).
        nodes: names of the ONNX nodes that it computes.
    """

    kind: str
    inputs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class BuildReport(_Frozen):
    """What a build did.

    Attributes:
        tensorrt: the exact version.
        typing: strong (the ONNX decides each type) or weak (flags do).
        flags: the builder flags that were set, by name.
        profile: shapes of each input as {name: [min, opt, max]}; empty where the graph's are fixed.
        seconds: of parsing and building, without the start of the process.
        layers: of the engine, in order; empty where `layers_from` is none.
        layers_from: the builder's log (no GPU needed) or the engine inspector.
        quantized: names of the ONNX nodes (convolutions, matrix products) whose input the graph dequantizes.
        int8: those of them that the engine computes from INT8 inputs and INT8 weights.
        warnings: of TensorRT, each once.
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
    """Why a build failed: an error's class by name, its message and its hint."""

    kind: str
    message: str
    hint: str


class BuildProgress(_Frozen):
    """One line of what the builder's process says: how far it is (0 to 1) and in which phase, or the report, or the error."""

    done: float | None = Field(None, ge=0, le=1)
    phase: str = ""
    report: BuildReport | None = None
    error: BuildError | None = None


class EngineRecord(_Frozen):
    """What lies beside an engine as NAME.engine.json (never inside it: trtexec and DeepStream refuse an engine with a prefix).

    Attributes:
        onnx, onnx_sha256: the file that it was built from, by name, and its digest.
        machine: what a classic engine is bound to (GPU, driver, system); empty for one that was built without a GPU.
        metadata: what the ONNX says about itself: the classes, in the order of the logits, and edgekit's version.
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
    """What a device needs to build an engine on first use, as NAME.json beside the ONNX NAME.onnx.

    Attributes:
        onnx: for a strongly typed build (classic TensorRT from 10.12 on, TensorRT for RTX): its own types are the engine's.
        weak_onnx: for a weakly typed one (before), which takes its types from flags; None where it is the same file.
        tensorrt: the releases that the files are made for.
    """

    build_schema: Literal[1] = Field(1, alias="schema")
    onnx: str
    weak_onnx: str | None
    precision: Precision
    batch: BatchRange
    tensorrt: str = ">=8.5,<12"

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def options(self, flavor: Flavor) -> BuildOptions:
        """How to build it with one flavor, for the GPU of this machine."""
        return BuildOptions(flavor=flavor, precision=self.precision, batch=self.batch)


def check_capabilities(asked: tuple[str, ...]) -> None:
    """Refuse compute capabilities that TensorRT for RTX does not build for.

    Raises:
        ExportError: naming them.
    """
    if unknown := [c for c in asked if c not in RTX_CAPABILITIES]:
        orin = "; a Jetson takes --target trt" if {"8.7", "7.2", "11.0"} & set(unknown) else ""
        raise ExportError(
            f"TensorRT for RTX does not build for compute capability {', '.join(unknown)}",
            f"it builds for {', '.join(RTX_CAPABILITIES)}{orin}",
        )


def parse_capabilities(text: str) -> tuple[str, ...]:
    """`8.6,8.9` as BuildOptions takes it.

    Raises:
        ExportError: it is not such a list, or names what TensorRT for RTX does not build for.
    """
    asked = tuple(part.strip() for part in text.split(","))
    check_capabilities(asked)
    return asked
