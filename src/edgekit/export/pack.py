"""Replace a bundle's folder as a whole: a reader always sees the complete old or the complete new bundle."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import MANIFEST, Bundle, BundleFile, Variant, read_manifest
from edgekit.errors import BundleError, ExportError
from edgekit.files import atomic_write, copy_file
from edgekit.temporary import debris, temporary_folder

GOLDEN_FILE = "golden.npz"
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD


def existing(output: Path) -> Bundle | None:
    """The bundle that is in a folder now; None if there is none or a file of it is damaged.

    Raises:
        ExportError: the folder holds other files, or a manifest that cannot be read: an export must not overwrite unknown
            files.
    """
    if not output.exists():
        return None
    if not output.is_dir():
        raise ExportError(f"{output}: is a file, not a folder for a bundle", "give another --output")
    if _listed(output) is None:
        return None
    try:
        return Bundle.open(output)
    except BundleError:  # its manifest lists edgekit's files, so they can be replaced
        return None


@contextmanager
def replaced(output: Path) -> Iterator[Path]:
    """Yield an empty folder beside `output`. It replaces `output` if the block succeeds and is deleted otherwise.

    Files in `output` that do not belong to the old bundle are kept. Leftovers of killed exports are cleaned up first.

    Raises:
        ExportError: the folder cannot be written, or the bundle would overwrite files that edgekit did not write.
    """
    output = Path(os.path.realpath(output))  # a symbolic link is kept
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _recover(output)
        lock, folder = temporary_folder(output.parent, f".{output.name}")
        folder.chmod(0o777 & ~_umask())
    except OSError as error:
        raise _unwritable(output, error) from error
    old = False
    try:
        yield folder
        _sync(folder)
        if not output.exists():
            os.rename(folder, output)
            return
        foreign = foreign_files(output, _listed(output) or set())
        if taken := [path for path in foreign if (folder / path).exists()]:
            raise ExportError(
                f"{output}: holds {', '.join(map(str, taken[:3]))}, which edgekit did not write and the bundle would overwrite",
                "move these files elsewhere, or give another --output",
            )
        _exchange(folder, output)
        old = True  # now `folder` is the old bundle, with the user's files in it
        _move(foreign, folder, output)
        old = False
    except OSError as error:
        where = f"; your own files are in {folder}" if old else ""
        raise _unwritable(output, error, where) from error
    finally:
        if not old:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def foreign_files(folder: Path, listed: set[str]) -> list[Path]:
    """Paths, relative to a bundle's folder, of everything that does not belong to it: files, and folders without any of its files."""
    folders = {parent for path in listed for parent in PurePosixPath(path).parents}
    found: list[Path] = []
    waiting = [Path()]
    while waiting:
        for entry in sorted((folder / waiting.pop()).iterdir()):
            path = entry.relative_to(folder)
            if entry.is_dir() and not entry.is_symlink() and PurePosixPath(path) in folders:
                waiting.append(path)
            elif path.as_posix() not in listed:
                found.append(path)
    return found


def _listed(output: Path) -> set[str] | None:
    """The files that a folder's manifest lists as edgekit's; None if the folder is empty.

    Raises:
        ExportError: the folder is not empty and has no readable manifest.
    """
    if not any(output.iterdir()):
        return None
    if not os.path.lexists(output / MANIFEST):
        raise ExportError(f"{output}: holds other files, but no bundle", "give another --output, or an empty folder")
    try:
        return {MANIFEST, *(file.path for file in read_manifest(output).files)}
    except BundleError as error:
        raise ExportError(
            f"{output}: holds files, but its {MANIFEST} does not list which are edgekit's: {error.message}",
            "give another --output, or delete it yourself",
        ) from error


def _move(paths: list[Path], source: Path, target: Path) -> None:
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / path, target / path)


def recover(output: Path) -> None:
    """Clean up after a killed export: move the old bundle back if it had been moved aside, move the user's files back into it, and
    delete the rest.

    Raises:
        ExportError: the folder cannot be written.
    """
    try:
        _recover(Path(os.path.realpath(output)))
    except OSError as error:
        raise _unwritable(output, error) from error


def _recover(output: Path) -> None:
    for aside in output.parent.glob(f".{glob.escape(output.name)}.????????.tmp.old"):
        if not output.exists():
            os.rename(aside, output)
        else:
            _rescue(aside, output)
    for folder in debris(output.parent, output.name):
        if folder.is_dir() and not folder.is_symlink():
            _rescue(folder, output)


def _rescue(folder: Path, output: Path) -> None:
    """Remove a leftover bundle folder beside `output`, after moving files that do not belong to the bundle into `output`."""
    if (folder / MANIFEST).exists():  # without a manifest, it never replaced `output`
        try:
            foreign = foreign_files(folder, _listed(folder) or set())
        except ExportError:
            return
        if any((output / path).exists() for path in foreign):
            return
        _move(foreign, folder, output)
    shutil.rmtree(folder, ignore_errors=True)


def write_golden(folder: Path, images: NDArray[np.uint8], outputs: dict[str, NDArray[np.float32]]) -> BundleFile:
    """Write the golden tensors: images (n, h, w, 3) uint8 and the trained model's outputs by name, float32 with n rows."""
    with atomic_write(folder / GOLDEN_FILE) as stream:
        np.savez_compressed(stream, images=images, **outputs)  # type: ignore[arg-type]
    return BundleFile.of(folder, GOLDEN_FILE)


def carry(variant: Variant, old: Bundle, folder: Path) -> Variant:
    """Take a variant from an older bundle: link its files into `folder`, or copy them where links are not possible."""
    for file in variant.files:
        link_or_copy(old.file(file), folder / file.path)
    return variant


def link_or_copy(source: Path, target: Path) -> None:
    """Link `target` to `source`, or copy it where links are not possible; an existing `target` is kept."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        copy_file(source, target)


def zipped(bundle: Bundle, archive: Path) -> None:
    """Write a bundle as a .zip: exactly the files that it lists, the same bytes each time."""
    with atomic_write(archive) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as content:
        for path in sorted({MANIFEST, *(file.path for file in bundle.manifest.files)}):
            entry = zipfile.ZipInfo(path)  # dated 1980, so that equal content gives equal archives
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            content.writestr(entry, (bundle.path / path).read_bytes())


def _exchange(a: Path, b: Path) -> None:
    """Swap two folders, in one step where the system supports it (Linux), else in three renames."""
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


def _unwritable(output: Path, error: OSError, also: str = "") -> ExportError:
    full = error.errno == errno.ENOSPC
    return ExportError(
        f"{output}: cannot be written: {error.strerror or error}{also}",
        "free some space" if full else "check the folder's permissions, or give another --output",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
