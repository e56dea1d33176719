"""A variant of a bundle: a form of the model, and what was measured of it at export."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgekit.alarms import Alarm
from edgekit.board import BoardNeeds
from edgekit.bundle.part import BundleFile, Figures, ManifestPart, written_fields
from edgekit.confidence import AnyConfidence
from edgekit.errors import shortened
from edgekit.quantization import Quantization
from edgekit.targets import Precision

Verdict = Literal["faster", "slower", "undecided"]
SLOWER = "slower than float on this machine"  # how a variant's note begins that says so, and why


class Parity(Figures):
    """How close a variant is to the trained model on the golden tensors; for each further output NAME_max_abs_diff and NAME_cosine."""

    samples: int
    agreement: float = Field(
        ge=0, le=1, validation_alias=AliasChoices("agreement", "top1_agreement"),
        description="share of the golden images on which both decide alike; in schema 1 top1_agreement",
    )  # fmt: skip
    max_abs_diff: float = Field(description="largest absolute difference of a value of the main output")
    sqnr_db: float | None = Field(
        description="signal to quantization noise of the main output, in dB; null where the noise is 0"
    )
    batches: list[int] = Field(
        default_factory=list, description="batch sizes whose outputs were held against those of one image at a time"
    )
    batches_sqnr_db: float | None = Field(
        None, description="main output to the largest difference between two of these, in dB; null where there is none"
    )


class Accuracy(Figures):
    """How well a variant, or the trained model, does on the evaluation set: the task's metrics by name, of classification top1 and top5."""

    metric: str = Field("top1", description="the one that counts")
    samples: int
    agreement: float | None = Field(
        None, ge=0, le=1, description="share of the same images on which a variant decides as the trained model does"
    )

    @model_validator(mode="after")
    def _shares(self) -> Accuracy:
        if self.metric not in self.figures:
            raise ValueError(f"it holds no {shortened(self.metric)}")
        if any(not 0 <= value <= 1 for value in self.figures.values()):
            raise ValueError("a metric is not from 0 to 1")
        return self

    @property
    def value(self) -> float:
        """The metric that counts, a share."""
        return self.figures[self.metric]


class Speed(ManifestPart):
    """A first measurement of a variant's speed at export, in turns with the same runtime's float graph."""

    p50_ms: float = Field(gt=0, description="median of one batch, by `clock`")
    float_p50_ms: float = Field(gt=0, description="the same of the float graph")
    ratio: float = Field(
        gt=0, description="float / variant, the median over the pairs: above 1, the variant is the faster one"
    )
    low: float | None = Field(None, gt=0, description="lower end of the ratio's confidence interval")
    high: float | None = Field(None, gt=0, description="its upper end")
    verdict: Verdict | None = Field(
        None,
        description="what the interval says of the variant; null in older bundles, which had none and went by the ratio",
    )
    clock: Literal["wall", "cpu"] = Field(
        "wall", description="cpu: the time that a processor worked for it, which other programs do not lengthen"
    )
    threads: int = Field(0, description="of the runtime; 0 was its default number")
    batch: int = Field(ge=1)
    samples: int = Field(description="runs of the variant")
    cores: int = Field(description="that the process could use")
    cpu: str
    isa: list[str] = Field(description="instruction-set extensions: what it says holds for machines with the same")

    @property
    def outcome(self) -> Verdict:
        """The verdict; for an older bundle, from its ratio."""
        return self.verdict or ("faster" if self.ratio >= 1 else "slower")


class Variant(ManifestPart):
    """A form of the model: a runtime, a precision, and the files."""

    id: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$", description="for instance onnx-fp32, onnx-int8, openvino-fp16, openvino-int8"
    )
    runtime: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,39}$",
        description="what loads and runs the files; one that is unknown here leaves the other variants usable",
    )
    precision: Precision
    files: list[BundleFile] = Field(min_length=1, description="the first is the one that the runtime opens")
    settings: dict[str, str] = Field(
        default_factory=dict, description="settings for the runtime, for example the inference precision"
    )
    quantization: Quantization | None = Field(None, description="of INT8: how it was made")
    executed: bool = Field(description="whether it was run where it was exported")
    status: Literal["verified", "rejected", "unexecuted"]
    parity: Parity | None = None
    accuracy: Accuracy | None = None
    agreement: float | None = Field(
        None, ge=0, le=1, description="share of the evaluation images on which it decides as the trained model does"
    )
    speed: Speed | None = Field(None, description="of INT8, where it was timed at export")
    drop: float | None = Field(None, description="the metric of the trained model minus this one's, as a share")
    drop_is: Literal["measured", "expected"] = Field(
        "measured", description="expected: there were no labels, and the trained model's own confidence stands for them"
    )
    note: str = Field("", description="what a user should know, for instance why it was rejected")
    board: BoardNeeds | None = Field(None, description="of the target micro: what a microcontroller needs to run it")
    confidence: AnyConfidence | None = Field(
        None,
        description="its temperature, and when it answers unknown; of the task multilabel, the thresholds of its classes",
    )
    alarm: Alarm | None = Field(None, description="the score above which an image is anomalous")

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return written_fields(handler(self))

    def noted(self, note: str) -> Variant:
        """The same variant with something more in its note."""
        return self.model_copy(update={"note": "; ".join(part for part in (self.note, note) if part)})

    @property
    def bytes(self) -> int:
        """Size of all its files on disk; of what goes on a microcontroller, of the model alone, which is there as source code too."""
        if self.board is not None and self.board.model_bytes is not None:
            return self.board.model_bytes
        return sum(file.bytes for file in self.files)
