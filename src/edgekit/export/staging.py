"""The work of an export in progress, kept beside the bundle: one that was interrupted goes on with what it had finished.

    .NAME.partial/
    ├── lock               held by the export that works here
    ├── inputs.json        what all of it was made from
    ├── reference.npz      what the trained model says
    ├── ranges/            what calibration collected
    └── variants/ID/       the files of a finished variant and its record; without a record it is not finished

A record is written last and names the digest of every file, so whatever moment a process dies at, what counts as finished is whole.
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
from edgekit.files import atomic_write, sha256, write_json
from edgekit.foreign import Unreadable, read_json, read_npz
from edgekit.locks import locked

_INPUTS, _LOCK, _RECORD, _REFERENCE, _VARIANTS = "inputs.json", "lock", "record.json", "reference.npz", "variants"


class Staging:
    """An export's folder of finished work; make one with `staged`.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, inputs: str) -> None:
        """Keep what was made from the same inputs, throw the rest away.

        Args:
            inputs: the digest of what every variant of this export depends on.
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
        """Where calibration keeps what it collected."""
        return self.path / "ranges"

    def folder(self, id_: str) -> Path:
        """Where a variant's files go: an empty folder, unless the variant is finished and `finished` says so."""
        folder = self.path / _VARIANTS / id_
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def finish(self, variant: Variant, key: str) -> None:
        """Declare a variant finished, its files being in its folder.

        Args:
            key: the digest of everything that it depends on.
        """
        write_json(self._record(variant.id), {"key": key, "variant": variant.model_dump(mode="json")})

    def finished(self, id_: str, key: str) -> Variant | None:
        """A finished variant that was made from the same and whose files are as they were; None where there is none."""
        try:
            record = read_json(self._record(id_))
            variant = Variant.model_validate(record["variant"])
            same = record["key"] == key and variant.id == id_
            folder = self._record(id_).parent
            return variant if same and all(sha256(folder / f.path) == f.sha256 for f in variant.files) else None
        except (Unreadable, OSError, KeyError, ValidationError):
            return None

    def place(self, variant: Variant, folder: Path) -> None:
        """Put the files of a finished variant into a bundle's folder: linked, or copied where links cannot be."""
        for file in variant.files:
            link_or_copy(self._record(variant.id).parent / file.path, folder / file.path)

    def arrays(self) -> dict[str, NDArray[np.float32]] | None:
        """What the trained model says, as `keep_arrays` left it; None where nothing is kept or it cannot be read."""
        try:
            return read_npz(self.path / _REFERENCE)
        except Unreadable:
            return None

    def keep_arrays(self, arrays: dict[str, NDArray[np.float32]]) -> None:
        """Keep what the trained model says."""
        with atomic_write(self.path / _REFERENCE) as stream:
            np.savez(stream, allow_pickle=False, **arrays)

    def _record(self, id_: str) -> Path:
        return self.path / _VARIANTS / id_ / _RECORD


@contextmanager
def staged(output: Path) -> Iterator[Staging]:
    """The folder of finished work beside a bundle: deleted when the block ends well, kept when it does not.

    Raises:
        ExportError: another export works on the same bundle, or the folder cannot be written.
    """
    path = output.with_name(f".{output.name}.partial")
    with ExitStack() as lock:
        try:
            path.mkdir(parents=True, exist_ok=True)
            held = lock.enter_context(locked(path / _LOCK))
        except OSError as error:
            raise ExportError(
                f"{output}: cannot be written: {error.strerror or error}",
                "check the folder's permissions and the free space, or give another --output",
            ) from error
        if not held:
            raise ExportError(
                f"{output}: another export is writing this bundle", "wait for it, or give another --output"
            )
        try:
            yield Staging(path)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            _remove_if_unused(path)


def _remove_if_unused(path: Path) -> None:
    """Leave nothing behind where nothing was finished."""
    variants = path / _VARIANTS
    if any((folder / _RECORD).exists() for folder in variants.glob("*")) or (path / _REFERENCE).exists():
        return
    with contextlib.suppress(OSError):
        shutil.rmtree(path)
