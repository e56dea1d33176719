"""Records of what a microcontroller needs to run a variant, for `bundle.json` (see `quantization.Record` for how they are read)."""

from __future__ import annotations

from pydantic import Field

from edgekit.quantization import Record


class NpuCompilation(Record):
    """A file compiled for an Arm Ethos-U by Vela. Its figures are the compiler's, not measurements."""

    file: str = Field("", description="the compiled file; it was not run here, since it needs the NPU")
    accelerator: str = Field("", description="for instance ethos-u55-128")
    compiler: str = Field("", description="ethos-u-vela and its version")
    system: str = Field("", description="the system configuration that the compiler assumed")
    memory_mode: str = Field("", description="the memory mode that the compiler assumed")
    npu_operators: int | None = None
    cpu_operators: int | None = None
    npu_share: float | None = Field(None, description="share of the operators on the NPU")
    file_bytes: int | None = Field(None, description="of the compiled file, which then lies in flash")
    arena_bytes: int | None = Field(
        None,
        description="what the compiled file needs as an arena: the compiler's SRAM and DRAM, and what stays of the uncompiled model; computed, "
        "not measured",
    )
    operators: list[str] = Field(default_factory=list, description="operators of the compiled file to register")
    sram_bytes: int | None = None
    flash_bytes: int | None = None
    macs: int | None = Field(None, description="multiplications an image")
    estimated_ms: float | None = Field(
        None, description="an ESTIMATE of the compiler's performance model for one image, the NPU's part; not measured"
    )


class BoardNeeds(Record):
    """Memory and code that a board needs for a model in TFLite Micro."""

    arena_bytes: int | None = Field(
        None, description="the tensor arena, measured in TFLite Micro on a computer with its reference kernels"
    )
    activation_bytes: int | None = Field(None, description="of the arena, for activations")
    persistent_bytes: int | None = Field(None, description="of the arena, for what stays during a run")
    model_bytes: int | None = Field(None, description="the .tflite, which lies in flash; the code is not counted")
    operators: list[str] = Field(
        default_factory=list, description="operators to register, as methods of tflite::MicroMutableOpResolver"
    )
    measured_by: str = Field("", description="tflite-micro and its version")
    exceeds: list[str] = Field(
        default_factory=list, description="what is beyond the limits that were given, a clause each"
    )
    npu: NpuCompilation | None = None
