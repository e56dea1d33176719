"""Zipped bundles: extracted into the user's cache once for each content. Imported only where a bundle is a .zip."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from edgekit.errors import BundleError
from edgekit.files import cache_folder, sha256

# What reading a damaged, truncated, encrypted (RuntimeError) or unusually compressed (NotImplementedError) archive raises.
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, ValueError)


def extracted(archive: Path, manifest: str) -> Path:
    """The folder with an archive's content, which is extracted where it is not there yet.

    Args:
        archive: a .zip of a bundle's folder or of what is in it.
        manifest: the name of the file that tells the folder.

    Raises:
        BundleError: it is no readable .zip, holds a path that leaves it, or the cache cannot be written.
    """
    try:
        target = cache_folder() / "bundles" / sha256(archive)[:32]
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent))
    except OSError as error:
        raise BundleError(
            f"{archive}: cannot be extracted into {cache_folder()}: {error.strerror or error}",
            "set EDGEKIT_CACHE to a folder that can be written, or extract it yourself and give the folder",
        ) from error
    try:
        with zipfile.ZipFile(archive) as content:
            names = content.namelist()
            if any(name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name for name in names):
                raise BundleError(f"{archive}: holds a path that leaves the bundle", "do not use this bundle")
            content.extractall(temporary)
        inner = temporary
        if not (temporary / manifest).is_file():  # a zip of the folder itself
            inner = next((p.parent for p in temporary.glob(f"*/{manifest}")), temporary)
        os.replace(inner, target)
    except _BAD_ZIP as error:
        if not target.is_dir():  # another process may have put the same content there
            raise BundleError(
                f"{archive}: not a bundle folder and not a readable .zip: {error}", "copy the bundle again"
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
