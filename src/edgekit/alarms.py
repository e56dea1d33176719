"""The record in `bundle.json` of the score above which an image is anomalous.

`edgekit.export.alarms` sets it. Every variant has its own: its scores differ from the trained model's, so the same threshold would raise
another share of false alarms.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

AlarmRule = Literal["normal", "labeled"]
Share = tuple[float, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)


class AlarmQuality(_Part):
    """What a threshold does to labeled images that it was not set on."""

    are: str = Field(description="what these images are")
    normal: int = Field(ge=0)
    anomalous: int = Field(ge=0)
    false_alarms: float | None = Field(
        None, ge=0, le=1, description="share of the normal images that it calls anomalous"
    )
    false_alarms_interval: Share | None = Field(None, description="its 95 % interval")
    missed: float | None = Field(None, ge=0, le=1, description="share of the anomalous images that it calls normal")
    missed_interval: Share | None = Field(None, description="its 95 % interval")
    f1: float | None = Field(None, ge=0, le=1, description="of the anomalous images")
    agreement: float | None = Field(
        None, ge=0, le=1, description="share of images that it decides as the trained model does"
    )


class Alarm(_Part):
    """From which score on an image is anomalous, for one variant or the trained model."""

    threshold: FiniteFloat = Field(description="an image with a larger score is anomalous")
    rule: AlarmRule = Field(
        description="normal: a quantile of the scores of held-out normal images; labeled: the best F1 on labeled images"
    )
    false_alarms: float | None = Field(
        None, gt=0, le=1, description="normal: the share of further normal images that may be above it"
    )
    interval: tuple[FiniteFloat, FiniteFloat] | None = Field(
        None, description="normal: where that share truly lies, at 95 %; labeled: where the threshold lies, at 95 %"
    )
    f1: float | None = Field(None, ge=0, le=1, description="labeled: there")
    f1_interval: Share | None = Field(None, description="labeled: its 95 % interval")
    images: int = Field(ge=1, description="images that it was set on")
    trimmed: int = Field(
        0, ge=0, description="images with the largest scores that were left out, as anomalous ones may be among them"
    )
    are: str = Field(description="what these images are")
    map_threshold: FiniteFloat = Field(
        description="what the heat maps of 95 % of the normal ones among them stay below; drawings outline what is above"
    )
    quality: AlarmQuality | None = None
