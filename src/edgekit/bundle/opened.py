"""An opened bundle: its files, each compared with its digest, and its golden tensors.

The bytes of a file are compared with its digest when they are read (`Bundle.read`, `Bundle.copied`), and its path is not opened
again. A path outside the folder is refused.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import tasks
from edgekit.abstention import DISTANCE
from edgekit.arguments import checked
from edgekit.bundle.manifest import MANIFEST, Manifest, listed_files, parse_manifest
from edgekit.bundle.part import BundleFile
from edgekit.bundle.variant import Variant
from edgekit.confidence import Confidence
from edgekit.errors import BundleError, near
from edgekit.foreign import MOST_JSON, Unreadable, open_regular, parse_npz, private_copy, read_bytes
from edgekit.tasks.unknown import MEANS, WHITENING, Geometry, Known
from edgekit.text import visible


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
    @checked()
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
        bundle = cls(path, parse_manifest(text, path / MANIFEST), hashlib.sha256(text).hexdigest())
        if digest not in (None, bundle.digest):
            raise BundleError(f"{path}: changed during use", "run the command again")
        for file in bundle.manifest.files:
            bundle.file(file)
        return bundle

    @classmethod
    def _open_zip(cls, archive: Path, digest: str | None) -> Bundle:
        import shutil

        from edgekit.archive import extracted

        folder, inside = extracted(archive, MANIFEST, listed_files)
        try:
            return cls.open(folder, digest or inside)
        except BundleError:
            # Either the archive is damaged, or the extracted files have changed since: extract again to find out.
            shutil.rmtree(folder, ignore_errors=True)
            folder, inside = extracted(archive, MANIFEST, listed_files)
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
