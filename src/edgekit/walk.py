"""The images in a folder, by the names of the files: one rule for training and for the device.

Linked folders are followed, each folder once, so that loops end. Hidden files and what systems put beside images are left out without
a word; every other file that is no image by its name is counted.
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

# What Synology, QNAP, macOS, Windows and Linux put into folders, in lower case; most others begin with a dot.
_SYSTEM = {
    "#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recently-snapshot", "@recycle", "@tmp", "__macosx", "desktop.ini", "ehthumbs.db",
    "ehthumbs_vista.db", "icon\r", "lost+found", "recycler", "system volume information", "thumbs.db",
}  # fmt: skip
_MOST = 8  # extensions that a note names


@dataclass(frozen=True, slots=True)  # there may be a million
class ImageFile:
    """A file that is an image by its name.

    Attributes:
        name: path relative to the folder that was walked, with forward slashes.
        size: in bytes; -1 of a link to nothing, which cannot be read and is to be counted as such.
        mtime_ns: time of the last change, in nanoseconds; -1 likewise.
    """

    name: str
    size: int
    mtime_ns: int


@dataclass
class Walk:
    """Looks through folders, and counts what it leaves out.

    Attributes:
        left_out: number of files that are no image by their name, by extension (lower case, with the dot; empty for none).
    """

    left_out: Counter[str] = field(default_factory=Counter)
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def images(self, folder: Path) -> Iterator[ImageFile]:
        """The image files below a folder, in an order that is the same on every file system.

        Raises:
            DataError: a folder cannot be listed.
        """
        for entry in self.entries(folder):
            yield from self.below(entry, entry.name)

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """What a folder holds, sorted by name, without what is hidden or a system's own.

        Raises:
            DataError: it cannot be listed.
        """
        self._seen.add(_identity(folder.stat()))
        return _entries(folder)

    def below(self, entry: os.DirEntry[str], name: str) -> Iterator[ImageFile]:
        """The image files at and below an entry of a folder.

        Args:
            entry: a file or a folder.
            name: what its path is to be called.

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
        """An entry that is no folder as an image file; None, and counted, where it is none by its name."""
        try:
            status: os.stat_result | None = entry.stat()
        except OSError:  # a link to nothing, or to itself
            status = None
        if status is not None and not stat.S_ISREG(status.st_mode):
            return None
        extension = os.path.splitext(entry.name)[1].lower()
        if extension not in extensions():
            self.left_out[extension] += 1
            return None
        return ImageFile(name, status.st_size, status.st_mtime_ns) if status is not None else ImageFile(name, -1, -1)

    def notes(self, where: str) -> list[str]:
        """One line on what was left out, where something was.

        Args:
            where: the folders that were looked through.
        """
        if not self.left_out:
            return []
        total = sum(self.left_out.values())
        kinds = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
        parts = [f"{count:,} {_shown(extension)}" for extension, count in kinds[:_MOST]]
        if others := sum(count for _, count in kinds[_MOST:]):
            parts.append(f"{others:,} others")
        files = (
            "1 file that is no image by its name" if total == 1 else f"{total:,} files that are no image by their name"
        )
        hint = " (.heic and the like need the extra [heic])" if any(kind in self.left_out for kind in HEIF) else ""
        return [f"skipped {files} in {where}: {', '.join(parts)}{hint}"]


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system puts beside the user's own (a name without its path)."""
    return name.startswith(".") or name.lower() in _SYSTEM or name.startswith("SYNOFILE_THUMB_")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; a link to itself is none."""
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
