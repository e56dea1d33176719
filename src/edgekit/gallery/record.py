"""What a gallery says about itself: the model that made its embeddings, its classes, its threshold, and how other variants agree with it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgekit.bundle import Bundle
from edgekit.files import digest_of
from edgekit.tasks import EMBEDDING

GALLERY_SCHEMA = 1
SIMILARITIES = (-1.0, 1.0)  # the least and the largest cosine
_SHA = r"^[0-9a-f]{64}$"


class RecordPart(BaseModel):
    """A part of the record, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, populate_by_name=True)


class Threshold(RecordPart):
    """Where an image is too unlike all of the gallery: at this similarity and below it is unknown."""

    value: float | None = Field(
        None, ge=SIMILARITIES[0], le=SIMILARITIES[1], description="a cosine; null: every image gets a class"
    )
    false_accepts: float | None = Field(
        None, gt=0, lt=1, description="share of the unknown images that may get a class; null: the value was given"
    )
    impostors: int = Field(0, ge=0, description="images that stood for unknown ones, each without its own class")
    genuine: int = Field(0, ge=0, description="images whose class has another one, each left out in turn")
    false_rejects: float | None = Field(None, ge=0, le=1, description="share of the genuine images that are unknown")
    top1: float | None = Field(
        None, ge=0, le=1, description="share of the genuine images that are most similar to their class"
    )
    note: str = Field("", description="why there is no value, or how far to trust it")


class Agreement(RecordPart):
    """How another variant's embeddings of the gallery's own images are answered by the gallery, each image left out in turn."""

    images: int = Field(ge=0)
    agreed: int = Field(ge=0, description="images whose nearest class is the same as with the gallery's variant")
    cosine: float = Field(ge=-1, le=1, description="mean cosine of both variants' embeddings")

    @property
    def share(self) -> float:
        """Of the images; 1 without any."""
        return self.agreed / self.images if self.images else 1.0

    def and_also(self, other: Agreement | None) -> Agreement:
        """The agreement on the images of both."""
        if other is None or not other.images:
            return self
        images = self.images + other.images
        cosine = (self.cosine * self.images + other.cosine * other.images) / images
        return Agreement(images=images, agreed=self.agreed + other.agreed, cosine=min(1.0, max(-1.0, cosine)))


class GalleryRecord(RecordPart):
    """The record of a gallery, `record.json` in its file."""

    gallery_schema: Literal[1] = Field(1, alias="schema")
    bundle: str = Field(description="name of the bundle")
    bundle_sha256: str = Field(pattern=_SHA, description="of its bundle.json")
    model: str = Field(pattern=_SHA, description="of the trained model, whatever its variants: see `model_digest`")
    variant: str = Field(description="id of the variant that made the embeddings")
    variant_sha256: str = Field(pattern=_SHA, description="of that variant's files")
    created: str
    edgekit: str = Field(description="version of edgekit that wrote it")
    features: int = Field(ge=1, description="values of an embedding")
    classes: list[str] = Field(min_length=1, description="names, sorted")
    counts: list[int] = Field(min_length=1, description="images of each class, at least 1")
    neighbors: int = Field(
        1, ge=1, description="nearest images of a class, whose mean cosine is the similarity with it"
    )
    threshold: Threshold
    agreement: dict[str, Agreement] = Field(default_factory=dict, description="of other variants, by their ids")

    @model_validator(mode="after")
    def _classes_differ(self) -> GalleryRecord:
        if len(self.counts) != len(self.classes) or min(self.counts) < 1:
            raise ValueError("its classes and their numbers of images do not match")
        if repeated := [a for a, b in pairwise(self.classes) if a >= b]:
            raise ValueError(f"its class {repeated[0]} is repeated, or its classes are not sorted")
        return self

    def as_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return self.model_dump(mode="json", by_alias=True)


def model_digest(bundle: Bundle) -> str:
    """Return what identifies the trained model and its preprocessing: the same for bundles that hold other variants of it.

    The golden tensors hold the model's own outputs for fixed images, embeddings among them; so another model has other ones.
    """
    manifest = bundle.manifest
    return digest_of(
        {
            "task": manifest.task,
            "golden": manifest.golden.sha256,
            "preprocessing": manifest.preprocessing.model_dump(mode="json"),
            "features": features(bundle),
        }
    )


def variant_digest(bundle: Bundle, variant: str) -> str:
    """Return the digest of a variant's files and settings."""
    found = bundle.variant(variant)
    return digest_of({"files": sorted(file.sha256 for file in found.files), "settings": found.settings})


def features(bundle: Bundle) -> int | None:
    """Return the number of values of the embedding that a bundle's graphs give; None where they give none."""
    shapes = [output.shape[1:] for output in bundle.manifest.outputs if output.name == EMBEDDING]
    return shapes[0][0] if shapes and len(shapes[0]) == 1 else None


__all__ = [
    "GALLERY_SCHEMA",
    "SIMILARITIES",
    "Agreement",
    "GalleryRecord",
    "Threshold",
    "features",
    "model_digest",
    "variant_digest",
]
