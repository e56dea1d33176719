"""The images of a gallery: a folder with one sub-folder a class."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import DataError
from edgekit.foreign import open_regular, understood
from edgekit.text import counted
from edgekit.walk import Walk, is_folder


@dataclass(frozen=True)
class ClassFolder:
    """The images of a folder, class by class.

    Attributes:
        files: their paths.
        names: the class of each.
        notes: what was left out, a sentence each.
    """

    files: list[Path]
    names: list[str]
    notes: list[str]

    @property
    def classes(self) -> list[str]:
        """The names, sorted."""
        return sorted(set(self.names))


def read_class_folder(folder: Path | str, reserved: str = "") -> ClassFolder:
    """List the images of a folder with one sub-folder a class, at and below each.

    Args:
        folder: its path.
        reserved: a name that no class may have.

    Raises:
        DataError: it is missing, has no sub-folder, one without images, or two whose names look alike.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise DataError(f"{root}: {what}", "give a folder with one sub-folder a class, such as FOLDER/mug/1.jpg")
    walk = Walk()
    entries = walk.entries(root)
    folders = [entry for entry in entries if is_folder(entry)]
    if not folders:
        raise DataError(
            f"{root}: has no sub-folder", "put the images of each class into a sub-folder, such as FOLDER/mug/1.jpg"
        )
    _check_names(root, [entry.name for entry in folders], reserved)
    files: list[Path] = []
    names: list[str] = []
    for entry in folders:
        inside = [root / image.name for image in walk.below(entry, entry.name)]
        if not inside:
            raise DataError(
                f"{root / entry.name}: no image in this class's folder", "add one, or remove the empty folder"
            )
        files += inside
        names += [entry.name] * len(inside)
    beside = sum(walk.file(entry, entry.name) is not None for entry in entries if not is_folder(entry))
    notes = walk.notes(str(root))
    if beside:
        notes.append(f"left out {counted(beside, 'image')} in {root} itself, in no class's folder")
    return ClassFolder(files, names, notes)


def _check_names(root: Path, names: list[str], reserved: str) -> None:
    alike: dict[str, str] = {}
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{root / name}: its name is not UTF-8 text", "rename the folder") from None
        if reserved and name.casefold() == reserved:
            raise DataError(
                f"{root / name}: a class cannot be called {reserved}, which is the answer for images of no class",
                "rename or remove the folder",
            )
        if (other := alike.setdefault(folded(name), name)) != name:
            raise DataError(
                f"{root}: the class {name} is there twice: {other} and {name} look the same but for case, accents' form or spaces",
                "rename or merge the folders",
            )


def folded(name: str) -> str:
    """Return a name as a person reads it: without the differences of case, of the form of its accents, and of spaces around it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()


def file_key(path: Path) -> int:
    """Return 64 bits of the digest of a file's bytes (BLAKE2b), by which a gallery knows an image again."""
    digest = hashlib.blake2b(digest_size=8)
    with open_regular(path) as stream, understood(path, "a file"):
        while block := stream.read(1 << 20):
            digest.update(block)
    return int.from_bytes(digest.digest(), "little")
