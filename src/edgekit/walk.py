"""Find the images in a folder by their file extensions: one rule for training and for the device.

Linked folders are followed, each folder once, so that loops end. Hidden files and system files are left out silently; every other
file without an image extension is counted.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.errors import DataError
from edgekit.image_files import HEIF, extensions

# System files of Synology, QNAP, macOS, Windows and Linux, in lower case; most others begin with a dot.
_SYSTEM = {
    "#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recently-snapshot", "@recycle", "@tmp", "__macosx", "desktop.ini", "ehthumbs.db",
    "ehthumbs_vista.db", "icon\r", "lost+found", "recycler", "system volume information", "thumbs.db",
}  # fmt: skip
_MOST = 8  # extensions that a note names


@dataclass(frozen=True, slots=True)  # there may be a million
class ImageFile:
    """A file with an image extension.

    Attributes:
        name: path relative to the folder that was walked, with forward slashes.
        size: in bytes; -1 for a broken link, which counts as unreadable.
        mtime_ns: time of the last change, in nanoseconds; -1 likewise.
    """

    name: str
    size: int
    mtime_ns: int


@dataclass
class Walk:
    """Walks through folders, and counts the files that it leaves out.

    Attributes:
        left_out: number of files without an image extension, by extension (lower case, with the dot; empty for none).
    """

    left_out: Counter[str] = field(default_factory=Counter)
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def images(self, folder: Path) -> Iterator[ImageFile]:
        """Yield the image files below a folder, in the same order on every file system.

        Raises:
            DataError: a folder cannot be listed.
        """
        for entry in self.entries(folder):
            yield from self.below(entry, entry.name)

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """Return the entries of a folder, sorted by name, without hidden and system files.

        Raises:
            DataError: it cannot be listed.
        """
        self._seen.add(_identity(folder.stat()))
        return _entries(folder)

    def below(self, entry: os.DirEntry[str], name: str) -> Iterator[ImageFile]:
        """Yield the image files at and below an entry of a folder.

        Args:
            entry: a file or a folder.
            name: its path in the results.

        Raises:
            DataError: a folder cannot be listed.
        """
        if not is_folder(entry):
            file = self.file(entry, name)
            if file is not None:
                yield file
            return
        identity = _identity(entry.stat())
        if identity in self._seen:
            return
        self._seen.add(identity)
        for child in _entries(entry):
            yield from self.below(child, f"{name}/{child.name}")

    def file(self, entry: os.DirEntry[str], name: str) -> ImageFile | None:
        """Return an entry that is not a folder as an image file; without an image extension, count it and return None."""
        try:
            status: os.stat_result | None = entry.stat()
        except OSError:  # a broken link, or a link to itself
            status = None
        if status is not None and not stat.S_ISREG(status.st_mode):
            return None
        extension = os.path.splitext(entry.name)[1].lower()
        if extension not in extensions():
            self.left_out[extension] += 1
            return None
        return ImageFile(name, status.st_size, status.st_mtime_ns) if status is not None else ImageFile(name, -1, -1)

    def notes(self, where: str) -> list[str]:
        """Return one line about the files that were left out, if there are any.

        Args:
            where: the folders that were walked.
        """
        if not self.left_out:
            return []
        total = sum(self.left_out.values())
        kinds = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
        parts = [f"{count:,} {_shown(extension)}" for extension, count in kinds[:_MOST]]
        if others := sum(count for _, count in kinds[_MOST:]):
            parts.append(f"{others:,} others")
        files = "1 file without an image extension" if total == 1 else f"{total:,} files without an image extension"
        hint = " (HEIC files need the extra [heic])" if any(kind in self.left_out for kind in HEIF) else ""
        return [f"skipped {files} in {where}: {', '.join(parts)}{hint}"]


def is_system(name: str) -> bool:
    """Return whether a file or folder name (without its path) is hidden, or that of a system file."""
    return name.startswith(".") or name.lower() in _SYSTEM or name.startswith("SYNOFILE_THUMB_")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one; a link to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not is_system(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"{os.fspath(folder)}: cannot be listed: {error.strerror}", "check its permissions") from error


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _shown(extension: str) -> str:
    printable = extension.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return printable if printable else "without an extension"
