"""The bundle, which is copied to the device: a folder, or a .zip of it, with `bundle.json`, the model files and golden tensors.

The bytes of a file are compared with its digest when they are read (`Bundle.read`, `Bundle.copied`), and its path is not opened
again. A path outside the folder is refused. A bundle contains no pickles: the golden tensors are a NumPy archive that is read
without pickle support.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AliasChoices,
    BaseModel,
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
from edgekit.board import BoardNeeds
from edgekit.confidence import AnyConfidence, ClassThresholds, Confidence
from edgekit.errors import BundleError, EdgekitError, near, shortened
from edgekit.files import sha256, write_text
from edgekit.foreign import MOST_JSON, Unreadable, open_regular, parse_json, parse_npz, private_copy, read_bytes
from edgekit.preprocess import Preprocessing
from edgekit.quantization import Quantization
from edgekit.targets import Precision
from edgekit.tasks.unknown import MEANS, WHITENING, Geometry, Known
from edgekit.text import visible

# 1 knew classification alone, and said nothing of a task; 3 is 2 with a confidence, which an older edgekit would leave out of its answers.
BUNDLE_SCHEMA = 3
MANIFEST = "bundle.json"

Verdict = Literal["faster", "slower", "undecided"]
SLOWER = "slower than float on this machine"  # how a variant's note begins that says so, and why


class ManifestPart(BaseModel):
    """A part of the manifest, without unknown keys. pydantic builds it on first use, to keep imports fast."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class BundleFile(ManifestPart):
    """A file of the bundle, with its size and digest."""

    path: str = Field(description="relative to the bundle, with forward slashes")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or not path.isprintable() or set(path) & set("\\:"):
            raise ValueError(f"the path {path!r} is outside the bundle")
        return path

    @classmethod
    def of(cls, folder: Path, path: str) -> BundleFile:
        """Describe an existing file in `folder`."""
        return cls(path=path, bytes=(folder / path).stat().st_size, sha256=sha256(folder / path))


class Figures(ManifestPart):
    """A part with numbers of the task's own beside the fields that are named here."""

    model_config = ConfigDict(extra="allow", defer_build=True)

    @model_validator(mode="after")
    def _numbers(self) -> Figures:
        for name, value in (self.model_extra or {}).items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and not number:
                raise ValueError(f"{shortened(name)} is not a finite number")
        return self

    @property
    def figures(self) -> dict[str, float]:
        """Those numbers by name."""
        return {name: value for name, value in (self.model_extra or {}).items() if value is not None}


class Tensor(ManifestPart):
    """An input or output of the graph; None in the shape is the free batch axis."""

    name: str
    dtype: Literal["uint8", "float32"]
    layout: str = Field(pattern=r"^N[A-Z]{0,4}$", description="NHWC, NC; a letter an axis, the batch first")
    shape: list[int | None] = Field(min_length=1)


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
        return _written(handler(self))

    def noted(self, note: str) -> Variant:
        """The same variant with something more in its note."""
        return self.model_copy(update={"note": "; ".join(part for part in (self.note, note) if part)})

    @property
    def bytes(self) -> int:
        """Size of all its files on disk; of what goes on a microcontroller, of the model alone, which is there as source code too."""
        if self.board is not None and self.board.model_bytes is not None:
            return self.board.model_bytes
        return sum(file.bytes for file in self.files)


def _written(content: dict[str, Any]) -> dict[str, Any]:
    """Fields of some tasks are written only where they say something: an older edgekit can then read the bundle."""
    return {
        key: value
        for key, value in content.items()
        if value is not None or key not in ("confidence", "geometry", "alarm")
    }


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
        return _written(handler(self))

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
                raise ValueError(f"it has {len(confidence.thresholds)} thresholds for {len(self.classes)} classes")
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


class Bundle:
    """An opened bundle; open one with `Bundle.open`."""

    def __init__(self, path: Path, manifest: Manifest, digest: str) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest

    def __repr__(self) -> str:
        variants = ", ".join(f"{variant.id} {variant.status}" for variant in self.manifest.variants)
        return visible(f"<Bundle {self.manifest.name} in {self.path}: {variants}>")

    @property
    def task(self) -> tasks.Task:
        """What its model answers."""
        return tasks.find(self.manifest.task)

    @classmethod
    def open(cls, path: Path | str, digest: str | None = None) -> Bundle:
        """Open a bundle's folder, its `bundle.json`, or a .zip of it, and compare every listed file with its digest.

        Args:
            path: of the folder, `bundle.json` or .zip.
            digest: required digest of `bundle.json`, so that another process opens the same bundle. None accepts any.

        Raises:
            BundleError: it is missing or damaged, has a newer schema, names a path outside itself, or has another digest.
        """
        path = Path(path)
        if path.is_file() and path.name == MANIFEST:
            path = path.parent
        if path.is_file():
            return cls._open_zip(path, digest)
        if not path.is_dir():
            raise BundleError(f"{path}: no such bundle", "export one with `edgekit export RUN --target onnx`")
        try:
            text = read_bytes(path / MANIFEST, MOST_JSON)
        except Unreadable as error:
            what = f"it has no {MANIFEST}" if error.missing else f"its {MANIFEST}: {error.reason}"
            of_run = path / "export"
            hint = (
                f"did you mean {of_run}?"
                if (of_run / MANIFEST).is_file()
                else "give the folder that `edgekit export` printed"
            )
            raise BundleError(f"{path}: not a bundle, {what}", hint) from error
        bundle = cls(path, _manifest(text, path / MANIFEST), hashlib.sha256(text).hexdigest())
        if digest not in (None, bundle.digest):
            raise BundleError(f"{path}: changed during use", "run the command again")
        for file in bundle.manifest.files:
            bundle.file(file)
        return bundle

    @classmethod
    def _open_zip(cls, archive: Path, digest: str | None) -> Bundle:
        import shutil

        from edgekit.archive import extracted

        folder, inside = extracted(archive, MANIFEST, _listed)
        try:
            return cls.open(folder, digest or inside)
        except BundleError:
            # Either the archive is damaged, or the extracted files have changed since: extract again to find out.
            shutil.rmtree(folder, ignore_errors=True)
            folder, inside = extracted(archive, MANIFEST, _listed)
        try:
            return cls.open(folder, digest or inside)
        except BundleError:  # the archive is damaged: remove the unusable files
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def read(self, file: BundleFile) -> bytes:
        """Return a file's bytes, after comparing them with the recorded digest.

        Raises:
            BundleError: it is missing or changed, or a link leads outside the bundle.
        """
        with self._reading(file) as path, open_regular(path) as stream:
            content = stream.read(file.bytes + 1)
        self._compare(file, len(content), hashlib.sha256(content).hexdigest())
        return content

    @contextmanager
    def copied(self, file: BundleFile) -> Iterator[str]:
        """Yield the path of a private copy of a file, which has the recorded digest, until the block ends.

        Raises:
            BundleError: as `read`.
        """
        with ExitStack() as stack:
            with self._reading(file) as path:
                copy = stack.enter_context(private_copy(path))
            self._compare(file, copy.bytes, copy.sha256)
            yield copy.path

    def file(self, file: BundleFile) -> Path:
        """Return the path of a file, after comparing it with its digest; for code that copies it and checks the copy.

        Raises:
            BundleError: as `read`.
        """
        digest, size = hashlib.sha256(), 0
        with self._reading(file) as path, open_regular(path) as stream:
            while size <= file.bytes and (block := stream.read(1 << 20)):
                digest.update(block)
                size += len(block)
        self._compare(file, size, digest.hexdigest())
        return path

    @contextmanager
    def _reading(self, file: BundleFile) -> Iterator[Path]:
        path = self.path / file.path
        try:
            if not path.resolve().is_relative_to(self.path.resolve()):
                raise BundleError(f"{path}: is outside the bundle", "do not use this bundle")
            yield path
        except Unreadable as error:
            reason = "missing from the bundle" if error.missing else error.reason
            raise BundleError(f"{path}: {reason}", "export or copy the bundle again") from error
        except (OSError, RuntimeError) as error:  # RuntimeError: Python before 3.13 on a link that leads to itself
            reason = getattr(error, "strerror", None) or "a link that leads to itself"
            raise BundleError(f"{path}: cannot be read: {reason}", "export or copy the bundle again") from error

    def _compare(self, file: BundleFile, size: int, digest: str) -> None:
        if size != file.bytes or digest != file.sha256:
            raise BundleError(
                f"{self.path / file.path}: changed since the export: its digest differs from the recorded one",
                "export or copy the bundle again",
            )

    def variant(self, name: str) -> Variant:
        """Return a variant by its id.

        Raises:
            BundleError: the id is unknown.
        """
        for variant in self.manifest.variants:
            if variant.id == name:
                return variant
        known = [v.id for v in self.manifest.variants]
        raise BundleError(
            f"bundle {self.manifest.name}: no variant {name}", near(name, known) or f"it has {', '.join(known)}"
        )

    def known(self, variant: Variant) -> Known | None:
        """How a variant tells known images from unknown ones: by its own confidence, or else by the trained model's; None if there is neither.

        Raises:
            BundleError: the file that it needs is damaged, or is not of this bundle's outputs.
        """
        confidence = variant.confidence or self.manifest.confidence
        if confidence is None:
            return None
        measures = isinstance(confidence, Confidence) and confidence.rule == DISTANCE
        return Known(confidence, self._geometry() if measures else None)

    def _geometry(self) -> Geometry:
        listed = self.manifest.geometry
        assert listed is not None  # the manifest has been checked
        path, hint = self.path / listed.path, "export the bundle again"
        try:
            arrays = parse_npz(io.BytesIO(self.read(listed)), path, [MEANS, WHITENING])
        except Unreadable as error:
            raise BundleError(f"{path}: not where known images lie: {error.reason}", hint) from error
        means, whitening = arrays[MEANS], arrays[WHITENING]
        width = means.shape[1] if means.ndim == 2 and means.size else 0
        outputs = {output.name: output.shape[1:] for output in self.manifest.outputs}
        name = tasks.EMBEDDING if tasks.EMBEDDING in outputs else self.task.main
        fits = outputs[name] in ([width], [None]) and whitening.shape == (width, width) and width > 0
        if not fits or any(a.dtype != np.float32 or not np.isfinite(a).all() for a in (means, whitening)):
            raise BundleError(
                f"{path}: not where known images lie in the {name}: {means.dtype} means of shape {means.shape}, "
                f"{whitening.dtype} whitening of shape {whitening.shape}", hint,
            )  # fmt: skip
        return Geometry(name, means, whitening)

    def golden(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return the golden images (n, H, W, 3) uint8 and the trained model's main output for them, such as the logits (n, classes) float32.

        Raises:
            BundleError: the file is not an archive of images and outputs, they are not finite, or it has Python objects (pickles
                are not read).
        """
        outputs = self.golden_outputs()
        return outputs["images"], outputs[self.task.main]

    def golden_outputs(self) -> dict[str, NDArray[Any]]:
        """Return the golden `images` (n, H, W, 3) uint8, and each output of the trained model for them, float32, by name.

        Raises:
            BundleError: as `golden`.
        """
        path = self.path / self.manifest.golden.path
        content = io.BytesIO(self.read(self.manifest.golden))
        size = tuple(self.manifest.preprocessing.image_size)
        shapes = {output.name: output.shape[1:] for output in self.manifest.outputs}
        try:
            named = parse_npz(content, path, ["images", *shapes])
        except Unreadable as error:
            raise BundleError(f"{path}: not golden tensors: {error.reason}", "export the bundle again") from error
        images = named.pop("images")
        right = images.dtype == np.uint8 and images.shape[1:] == (*size, 3) and images.size > 0
        for name, output in named.items():
            want = [len(images), *shapes[name]] if right else []
            fits = len(want) == output.ndim and all(a in (None, b) for a, b in zip(want, output.shape, strict=True))
            if not fits or output.dtype != np.float32:
                raise BundleError(
                    f"{path}: not golden tensors: {images.dtype} images of shape {images.shape}, {output.dtype} {name} of "
                    f"shape {output.shape}",
                    "export the bundle again",
                )
            if not np.isfinite(output).all():  # every comparison with them would hold
                raise BundleError(
                    f"{path}: its golden {name} are not finite, so no variant can be checked",
                    "export the bundle again, from a model with finite outputs",
                )
        shapes = {name: output.shape[1:] for name, output in named.items()}
        if fault := self.task.fault(self.manifest.classes, shapes):
            raise BundleError(f"{path}: not golden tensors: {fault}", "export the bundle again")
        return {"images": images, **named}


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest in a folder, without checking its files.

    Raises:
        BundleError: it is missing, or this edgekit cannot read it.
    """
    path = folder / MANIFEST
    try:
        return _manifest(read_bytes(path, MOST_JSON), path)
    except Unreadable as error:
        raise BundleError(error.message, "export or copy the bundle again") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `bundle.json` atomically; the files that it lists must already be in `folder`."""
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2, by_alias=True) + "\n")


def _listed(text: bytes, path: Path) -> dict[str, int]:
    """Return the paths that a manifest lists, with their sizes in bytes."""
    return {file.path: file.bytes for file in _manifest(text, path).files}


def _manifest(text: bytes, path: Path) -> Manifest:
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
        first = error.errors()[0]
        where = shortened(".".join(str(part) for part in first["loc"]))
        raise BundleError(
            f"{path}: {f'{where}: ' if where else ''}{first['msg'].removeprefix('Value error, ')}",
            "export or copy the bundle again",
        ) from error


__all__ = [
    "BUNDLE_SCHEMA",
    "MANIFEST",
    "Accuracy",
    "Bundle",
    "BundleFile",
    "Manifest",
    "ManifestPart",
    "Parity",
    "Precision",
    "Speed",
    "Tensor",
    "Variant",
    "Verdict",
    "read_manifest",
    "write_manifest",
]  # fmt: skip
