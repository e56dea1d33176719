"""The content of `bundle.json`: read, checked and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from edgekit import tasks
from edgekit.abstention import DISTANCE
from edgekit.alarms import Alarm
from edgekit.bundle.part import BundleFile, ManifestPart, written_fields
from edgekit.bundle.variant import Accuracy, Variant
from edgekit.confidence import AnyConfidence, ClassThresholds, Confidence
from edgekit.errors import BundleError, EdgekitError
from edgekit.files import write_text
from edgekit.foreign import MOST_JSON, Unreadable, parse_json, read_bytes
from edgekit.preprocess import Preprocessing
from edgekit.text import counted
from edgekit.validation import first_problem

# 1 knew classification alone, and said nothing of a task; 3 is 2 with a confidence, which an older edgekit would leave out of its answers.
BUNDLE_SCHEMA = 3
MANIFEST = "bundle.json"


class Tensor(ManifestPart):
    """An input or output of the graph; None in the shape is the free batch axis."""

    name: str
    dtype: Literal["uint8", "float32"]
    layout: str = Field(pattern=r"^N[A-Z]{0,4}$", description="NHWC, NC; a letter an axis, the batch first")
    shape: list[int | None] = Field(min_length=1)


class Manifest(ManifestPart):
    """The content of `bundle.json`."""

    bundle_schema: Literal[1, 2, 3] = Field(2, alias="schema", description="3 where there is a confidence")
    task: str = Field(tasks.DEFAULT, description="what the model answers; in schema 1 always classification")
    name: str
    created: str
    edgekit: str = Field(description="version of edgekit that wrote it")
    classes: list[str] = Field(description="names, in the order of the outputs; empty where the task has no classes")
    preprocessing: Preprocessing
    input: Tensor
    outputs: list[Tensor] = Field(min_length=1)
    golden: BundleFile = Field(
        description=".npz with `images` (n, H, W, 3) uint8 and the trained model's outputs for them, float32, by their names"
    )
    accuracy: Accuracy | None = Field(None, description="of the trained model, in float, before any conversion")
    confidence: AnyConfidence | None = Field(
        None, description="of the trained model; a variant that could not run where it was exported has no other"
    )
    geometry: BundleFile | None = Field(
        None,
        description=".npz with `means` (k, d) and `whitening` (d, d), float32: where known images lie in the embedding or the logits",
    )
    alarm: Alarm | None = Field(
        None,
        description="of the trained model, and of a variant that could not run where it was exported: the score above which an image is anomalous",
    )
    variants: list[Variant]
    provenance: dict[str, Any] = Field(description="run, digests of weights and stages, packages, machine, command")

    model_config = ConfigDict(populate_by_name=True)

    @property
    def files(self) -> list[BundleFile]:
        """All files of the bundle; a file that several variants share is repeated."""
        own = [self.golden] if self.geometry is None else [self.golden, self.geometry]
        return [*own, *(file for variant in self.variants for file in variant.files)]

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return written_fields(handler(self))

    @model_validator(mode="after")
    def _of_the_task(self) -> Manifest:
        task, shapes = tasks.find(self.task), {output.name: output.shape[1:] for output in self.outputs}
        if missing := [name for name in task.required if name not in shapes]:
            raise ValueError(f"the bundle lists no output named {missing[0]}, which {self.task} needs")
        if fault := task.fault(self.classes, shapes):
            raise ValueError(fault)
        for confidence in (self.confidence, *(v.confidence for v in self.variants)):
            if isinstance(confidence, Confidence) != task.abstains and confidence is not None:
                raise ValueError(f"it has a confidence that is not one of the task {self.task}")
            if isinstance(confidence, ClassThresholds) and len(confidence.thresholds) != len(self.classes):
                raise ValueError(
                    f"it has {counted(len(confidence.thresholds), 'threshold')} for {counted(len(self.classes), 'class', 'classes')}"
                )
            if isinstance(confidence, Confidence) and confidence.rule == DISTANCE and self.geometry is None:
                raise ValueError("the rule for unknown is a distance, and the bundle lists no geometry")
        return self

    @field_validator("variants")
    @classmethod
    def _names_differ(cls, variants: list[Variant]) -> list[Variant]:
        names = [variant.id for variant in variants]
        if len(set(names)) != len(names):
            raise ValueError(f"two variants have the same id ({', '.join(names)})")
        return variants


def read_manifest(bundle: Path) -> Manifest:
    """Read the manifest in a folder or in a .zip of it, without checking or extracting its files.

    Raises:
        BundleError: it is missing, or this edgekit cannot read it.
    """
    path = bundle / MANIFEST
    try:
        if bundle.is_file():
            from edgekit.archive import archived_manifest

            return parse_manifest(archived_manifest(bundle, MANIFEST), path)
        return parse_manifest(read_bytes(path, MOST_JSON), path)
    except Unreadable as error:
        raise BundleError(error.message, "export or copy the bundle again") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `bundle.json` atomically; the files that it lists must already be in `folder`."""
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2, by_alias=True) + "\n")


def listed_files(text: bytes, path: Path) -> dict[str, int]:
    """Return the paths that a manifest lists, with their sizes in bytes."""
    return {file.path: file.bytes for file in parse_manifest(text, path).files}


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """Check the content of a `bundle.json`.

    Args:
        text: its bytes.
        path: its name, for messages.

    Raises:
        BundleError: it is damaged, has a newer schema, or is of a task that this edgekit does not know.
    """
    try:
        content = parse_json(text, path)
        schema = content["schema"]
    except (Unreadable, KeyError) as error:
        raise BundleError(f"{path}: not a bundle manifest", "export or copy the bundle again") from error
    if isinstance(schema, int) and schema > BUNDLE_SCHEMA:
        raise BundleError(
            f"{path}: the bundle's schema is {schema}, this edgekit reads up to {BUNDLE_SCHEMA}",
            "update edgekit on this machine",
        )
    try:
        tasks.find(content.get("task", tasks.DEFAULT))
    except EdgekitError as error:
        raise BundleError(f"{path}: {error.message}", error.hint) from error
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{path}: {first_problem(error)}", "export or copy the bundle again") from error
