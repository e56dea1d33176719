"""Records of how an INT8 variant was made, for `bundle.json`: calibration, accuracy search, layers.

They are for people and for the report. No model is loaded by them, so a damaged or foreign record does not make a bundle unreadable: a
field of a wrong type counts as absent, an unknown field is kept as it is, and a field that was never set is not written.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from edgekit.spelling import translated_keys

# The strategies of the accuracy search, in their order.
Strategy = Literal["calibration", "equalization", "layers in float", "distillation", "unsigned weights"]
CALIBRATION, EQUALIZATION, FLOAT_LAYERS, DISTILLATION, UNSIGNED_WEIGHTS = get_args(Strategy)


class Record(BaseModel):
    """Base of the records; see the module."""

    model_config = ConfigDict(
        extra="allow", defer_build=True, protected_namespaces=()
    )  # pydantic < 2.10 warns about `model_bytes`

    @model_validator(mode="before")
    @classmethod
    def _earlier_names(cls, content: Any) -> Any:
        return translated_keys(content, cls.model_fields) if isinstance(content, dict) else content

    @field_validator("*", mode="wrap")
    @classmethod
    def _or_absent(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return handler(value)
        except ValidationError:
            assert info.field_name is not None
            field = cls.model_fields[info.field_name]
            if field.is_required():
                raise
            return field.get_default(call_default_factory=True)

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}


class CalibrationRecord(Record):
    """The images and the method that gave the ranges of the activations."""

    method: str = Field("", description="minmax, percentile, entropy, or NNCF's default")
    percentile: float | None = Field(None, description="share of the values inside the range, in percent")
    images: int | None = None
    also_judged_on: int = Field(0, description="number of these images on which the variant was also evaluated")
    drawn: str = Field("", description="clusters, random, or all")
    pool: int | None = Field(None, description="number of images that they were drawn from")
    seed: int | None = None
    embedded: int | None = Field(None, description="number of images of the pool that were embedded and clustered")
    clusters: int | None = None
    smallest_cluster: int | None = None
    largest_cluster: int | None = None
    images_sha256: str | None = None


class UnlabeledComparison(Record):
    """A candidate compared with the float model on unlabeled images."""

    agreement: float | None = Field(None, description="share of the images on which both decide alike")
    sqnr_db: float | None = Field(None, description="of the main output; null where there is no noise")
    images: int | None = None


class Attempt(Record):
    """A candidate of the accuracy search, and its outcome."""

    strategy: Strategy | None = None
    configuration: str = Field("", description="its configuration in words")
    status: Literal["", "not chosen", "failed", "unexecuted", "rejected", "verified"] = ""
    why: str = Field("", description="the error, if it failed")
    in_float: list[str] = Field(default_factory=list, description="nodes in float, in addition to the usual ones")
    unlabeled: UnlabeledComparison | None = None
    score: float | None = Field(
        None, validation_alias=AliasChoices("score", "top1"),
        description="of the task's metric on the evaluation set, where agreement and drop are of, too; a share; was top1",
    )  # fmt: skip
    agreement: float | None = None
    drop: float | None = None
    making_seconds: float | None = None
    seconds: float = Field(0.0, description="time to make, compare and verify it")


class LayerSensitivityRecord(Record):
    """A layer or a block of layers, and the main output when it alone stays in float."""

    layer: str
    operator: str = Field("", description="Conv, Gemm or MatMul; of a block, the number of layers")
    agreement: float | None = None
    sqnr_db: float | None = None
    gain_db: float = Field(description="gain of SQNR over every layer quantized")


class SearchRecord(Record):
    """The time limit of the accuracy search."""

    minutes: float | None = Field(None, description="the user's limit for all INT8 variants together")
    limit_seconds: float | None = Field(None, description="the limit for this variant; null: no limit")
    seconds: float = 0.0
    cut: bool = Field(False, description="whether the time ran out")


class MadeOn(Record):
    """The machine that quantized: the facts that the choice of the scheme depends on."""

    isa: list[str] = Field(default_factory=list)
    saturates: bool | None = Field(None, description="whether its 8-bit products can saturate")


class BiasCorrection(Record):
    """The result of the bias correction."""

    layers: int | None = None
    error_before: float | None = None
    error_after: float | None = None


class Distilled(Record):
    """How the weights were adapted to quantization."""

    steps: int | None = None
    images: int | None = None
    labels: int | None = None


class EngineLayers(Record):
    """The layers of a TensorRT engine."""

    quantized: int | None = Field(None, description="layers that are quantized in the graph")
    computed_in_int8: int | None = Field(None, description="of these, layers that the engine computes in INT8")
    according_to: str = Field("", description="source of these numbers")


class Quantization(Record):
    """How an INT8 variant was made."""

    tool: str = ""
    format: str = ""
    activations: str = ""
    weights: str = ""
    calibration: CalibrationRecord | None = None
    operations: list[str] = Field(default_factory=list)
    kept_in_float: list[str] = Field(default_factory=list, description="names of nodes")
    equalized: str = Field("", description="how the channels of the float graph were rescaled first")
    bias_correction: BiasCorrection | None = None
    distilled: Distilled | None = None
    configuration: str = Field("", description="its configuration in words")
    made_on: MadeOn | None = None
    rest: str = Field("", description="precision of the layers that are not quantized")
    judged_by: str = Field("", description="the runtime that verified it, if not its own")
    engine_layers: EngineLayers | None = None
    strategy: Strategy | None = Field(None, description="the strategy that kept the accuracy; null: none did")
    tried: list[Attempt] = Field(default_factory=list)
    search: SearchRecord | None = None
    sensitivity: list[LayerSensitivityRecord] = Field(default_factory=list, description="the most sensitive first")
    sensitivity_of_blocks: list[LayerSensitivityRecord] = Field(default_factory=list)
