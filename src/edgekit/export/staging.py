"""The staging folder of an export in progress, beside the bundle: an interrupted export resumes from it.

    .NAME.partial/
    ├── lock               held by the running export
    ├── inputs.json        digest of the common inputs
    ├── reference.npz      the trained model's outputs
    ├── ranges/            distributions collected by calibration
    └── variants/ID/       files of a variant, and its record once it is finished

The record is written last and holds the digest of every file, so a finished variant is complete whenever the process dies.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edgekit.bundle import Variant
from edgekit.errors import ExportError
from edgekit.export.pack import link_or_copy
from edgekit.files import atomic_write, new_folder, sha256, write_json
from edgekit.foreign import Unreadable, read_json, read_npz
from edgekit.locks import locked

_INPUTS, _LOCK, _RECORD, _REFERENCE, _VARIANTS = "inputs.json", "lock", "record.json", "reference.npz", "variants"


class Staging:
    """The staging folder of an export; create it with `staged`.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, inputs: str) -> None:
        """Keep work from the same inputs; delete all other work.

        Args:
            inputs: digest of the inputs that all variants of this export depend on.
        """
        try:
            same = read_json(self.path / _INPUTS, str) == inputs
        except Unreadable:
            same = False
        if not same:
            for entry in self.path.iterdir():
                if entry.name != _LOCK:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            write_json(self.path / _INPUTS, inputs)
        for folder in (self.path / _VARIANTS, self.ranges):
            folder.mkdir(exist_ok=True)

    @property
    def ranges(self) -> Path:
        """The folder for the distributions that calibration collects."""
        return self.path / "ranges"

    def folder(self, id_: str) -> Path:
        """An empty folder for a variant's files; deletes an earlier one, so ask `finished` first."""
        folder = self.path / _VARIANTS / id_
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def finish(self, variant: Variant, key: str) -> None:
        """Record that a variant is finished; its files must be in its folder.

        Args:
            variant: the variant.
            key: digest of everything that it depends on.
        """
        write_json(self._record(variant.id), {"key": key, "variant": variant.model_dump(mode="json")})

    def finished(self, id_: str, key: str) -> Variant | None:
        """The finished variant with this key, its files unchanged; None if there is none."""
        try:
            record = read_json(self._record(id_))
            variant = Variant.model_validate(record["variant"])
            same = record["key"] == key and variant.id == id_
            folder = self._record(id_).parent
            return variant if same and all(sha256(folder / f.path) == f.sha256 for f in variant.files) else None
        except (Unreadable, OSError, KeyError, ValidationError):
            return None

    def place(self, variant: Variant, folder: Path) -> None:
        """Link the files of a finished variant into a bundle's folder, or copy them where links are not possible."""
        for file in variant.files:
            link_or_copy(self._record(variant.id).parent / file.path, folder / file.path)

    def arrays(self) -> dict[str, NDArray[np.float32]] | None:
        """The trained model's outputs from `keep_arrays`; None if there are none or they cannot be read."""
        try:
            return read_npz(self.path / _REFERENCE)
        except Unreadable:
            return None

    def keep_arrays(self, arrays: dict[str, NDArray[np.float32]]) -> None:
        """Store the trained model's outputs."""
        with atomic_write(self.path / _REFERENCE) as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    def _record(self, id_: str) -> Path:
        return self.path / _VARIANTS / id_ / _RECORD


@contextmanager
def staged(output: Path) -> Iterator[Staging]:
    """Yield the staging folder beside a bundle; deleted if the block succeeds, kept otherwise.

    Raises:
        ExportError: another export is writing the same bundle, or the folder cannot be written.
    """
    path = output.with_name(f".{output.name}.partial")
    with ExitStack() as lock:
        try:
            lock.enter_context(new_folder(path))
            held = lock.enter_context(locked(path / _LOCK))
        except OSError as error:
            raise ExportError(
                f"{output}: cannot be written: {error.strerror or error}",
                "check the folder's permissions and the free space, or give another --output",
            ) from error
        if not held:
            raise ExportError(
                f"{output}: another export is writing this bundle", "wait until it ends, or give another --output"
            )
        try:
            yield Staging(path)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            _remove_if_unused(path)


def _remove_if_unused(path: Path) -> None:
    """Delete the folder if nothing was finished."""
    variants = path / _VARIANTS
    if any((folder / _RECORD).exists() for folder in variants.glob("*")) or (path / _REFERENCE).exists():
        return
    with contextlib.suppress(OSError):
        shutil.rmtree(path)
