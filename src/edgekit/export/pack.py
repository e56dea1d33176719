"""A bundle's folder, put in place as a whole: whoever looks sees the old bundle or the new one, never a part of one."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import MANIFEST, Bundle, BundleFile, Variant
from edgekit.errors import BundleError, ExportError
from edgekit.files import atomic_write

GOLDEN_FILE = "golden.npz"
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD


def existing(output: Path) -> Bundle | None:
    """The bundle that is in a folder now; None where there is none, or it is damaged.

    Raises:
        ExportError: the folder holds something else, which an export must not overwrite.
    """
    if not output.exists():
        return None
    if not output.is_dir():
        raise ExportError(f"{output}: is a file, not a folder for a bundle", "give another --output")
    if not (output / MANIFEST).is_file():
        if any(output.iterdir()):
            raise ExportError(f"{output}: holds other files and no bundle", "give another --output, or an empty folder")
        return None
    try:
        return Bundle.open(output)
    except BundleError:
        return None


@contextmanager
def replaced(output: Path) -> Iterator[Path]:
    """An empty folder beside `output`; when the block ends well it takes `output`'s place, else it is deleted.

    Files in `output` that are no part of the old bundle stay in it.

    Raises:
        ExportError: the folder cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent))
        folder.chmod(0o777 & ~_umask())
    except OSError as error:
        raise _unwritable(output, error) from error
    try:
        yield folder
        _sync(folder)
        if output.exists():
            foreign = _foreign(output)
            _exchange(folder, output)  # now `folder` is the old bundle
            for name in foreign:
                if not (output / name).exists():
                    os.replace(folder / name, output / name)
        else:
            os.rename(folder, output)
    except OSError as error:
        raise _unwritable(output, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_golden(folder: Path, images: NDArray[np.uint8], outputs: dict[str, NDArray[np.float32]]) -> BundleFile:
    """Write the golden tensors: images (n, s, s, 3) uint8 and the trained model's outputs by name, `logits` (n, classes) among them."""
    with atomic_write(folder / GOLDEN_FILE) as stream:
        np.savez_compressed(stream, allow_pickle=False, images=images, **outputs)
    return BundleFile.of(folder, GOLDEN_FILE)


def carry(variant: Variant, old: Bundle, folder: Path) -> Variant:
    """Take a variant over from an older bundle: link its files into `folder` (copy where links cannot be)."""
    for file in variant.files:
        link_or_copy(old.file(file), folder / file.path)
    return variant


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where links cannot be; what is there already stays."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def zipped(bundle: Bundle, archive: Path) -> None:
    """Write a bundle as one .zip: exactly the files that it lists, the same bytes each time."""
    with atomic_write(archive) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as content:
        for path in sorted({MANIFEST, *(file.path for file in bundle.manifest.files)}):
            entry = zipfile.ZipInfo(path)  # dated 1980, so that equal content gives equal archives
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            content.writestr(entry, (bundle.path / path).read_bytes())


def _foreign(output: Path) -> list[str]:
    """Names in a bundle's folder that are no part of the bundle."""
    if not (output / MANIFEST).is_file():
        return []
    try:
        manifest = Bundle.open(output).manifest
    except BundleError:  # damaged: what belonged to it cannot be told
        return []
    listed = {MANIFEST, manifest.golden.path, *(f.path for v in manifest.variants for f in v.files)}
    return [entry.name for entry in output.iterdir() if entry.name not in listed]


def _exchange(a: Path, b: Path) -> None:
    """Swap two folders, in one step where the system can (Linux), else in three renames."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        if renameat2(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE) == 0:
            return
    except (AttributeError, OSError):
        pass
    aside = b.with_name(f"{a.name}.old")
    os.rename(b, aside)
    try:
        os.rename(a, b)
    except OSError:
        os.rename(aside, b)
        raise
    os.rename(aside, a)


def _sync(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _unwritable(output: Path, error: OSError) -> ExportError:
    full = error.errno == errno.ENOSPC
    return ExportError(
        f"{output}: cannot be written: {error.strerror or error}",
        "free some space" if full else "check the folder's permissions, or give another --output",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
