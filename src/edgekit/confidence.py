"""The record of a classifier's calibrated confidence in `bundle.json`: its temperature, and when it answers `unknown`; of a multi-label
classifier, the thresholds of its classes.

`edgekit.tasks` computes and applies it. Every variant has its own: its outputs differ from the trained model's, so the same threshold
would call another share of the known images unknown.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from edgekit.abstention import Rule


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)


class ReliabilityBin(_Part):
    """The images whose highest probability lies in one bin."""

    images: int = Field(ge=1)
    confidence: float = Field(ge=0, le=1 + 1e-9, description="mean of these probabilities")
    accuracy: float = Field(ge=0, le=1, description="share of the images that are classified correctly")


class Quality(_Part):
    """What a temperature and a threshold do to images that they were not set on."""

    images: int = Field(ge=1)
    are: str = Field(description="what these images are")
    ece: tuple[FiniteFloat, FiniteFloat] = Field(
        description="expected calibration error with 15 bins of equal width, before and after the temperature"
    )
    nll: tuple[FiniteFloat, FiniteFloat] = Field(
        description="negative log-likelihood in nats, before and after the temperature"
    )
    unknown: float = Field(ge=0, le=1, description="share of these images, all of known classes, that it calls unknown")
    unknown_interval: tuple[float, float] = Field(description="its 95 % interval")
    answered_accuracy: float | None = Field(
        None, ge=0, le=1, description="top-1 among the others; null if there are none"
    )
    agreement: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of images that it decides as the trained model, where unknown is a decision",
    )
    bins_before: list[ReliabilityBin] = Field(default_factory=list)
    bins: list[ReliabilityBin] = Field(default_factory=list, description="after the temperature")


class Confidence(_Part):
    """The temperature and the rule for `unknown` of one variant, or of the trained model."""

    temperature: FiniteFloat = Field(gt=0, description="probabilities are softmax(logits / temperature)")
    rule: Rule = Field(
        description="the score of an image: its highest probability; log sum exp(logits), minus its energy; or minus its squared Mahalanobis "
        "distance from the nearest class, in the embedding or, where the graph gives none, in the logits"
    )
    threshold: FiniteFloat = Field(description="an image with a lower score is unknown")
    false_abstain: float = Field(gt=0, lt=1, description="the share of known images that may be called unknown")
    interval: tuple[float, float] = Field(
        description="where the true share lies, at 95 %, after a threshold from so many images"
    )
    images: int = Field(ge=1, description="labeled images, of which no model learned, that both were set on")
    are: str = Field(description="what these images are")
    quality: Quality | None = None


class ThresholdQuality(_Part):
    """What a temperature and the thresholds of the classes do to images that they were not set on."""

    images: int = Field(ge=1)
    are: str = Field(description="what these images are")
    f1_micro: tuple[float, float] = Field(description="micro F1 with 0.5 for all classes, and with the thresholds")
    f1_macro: tuple[float, float] = Field(description="macro F1, likewise")
    ece: tuple[FiniteFloat, FiniteFloat] = Field(
        description="class-wise expected calibration error with 15 bins of equal width, before and after the temperature"
    )
    bce: tuple[FiniteFloat, FiniteFloat] = Field(description="binary cross-entropy in nats, before and after it")
    agreement: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the decisions, one for each image and class, that are the trained model's",
    )


class ClassThresholds(_Part):
    """The temperature and the thresholds of one variant of a multi-label classifier, or of the trained model."""

    temperature: FiniteFloat = Field(gt=0, description="probabilities are sigmoid(logits / temperature)")
    thresholds: list[float] = Field(
        min_length=1, description="a class whose probability is at least this is there; in the order of the classes"
    )
    shared: float = Field(ge=0, le=1, description="the threshold of classes with too few images for one of their own")
    own: int = Field(ge=0, description="classes with a threshold of their own")
    images: int = Field(ge=1, description="labeled images, of which no model learned, that they were set on")
    are: str = Field(description="what these images are")
    quality: ThresholdQuality | None = None

    @field_validator("thresholds")
    @classmethod
    def _probabilities(cls, values: list[float]) -> list[float]:
        if not all(0 <= value <= 1 for value in values):
            raise ValueError("a threshold is not a probability from 0 to 1")
        return values


AnyConfidence = Confidence | ClassThresholds
