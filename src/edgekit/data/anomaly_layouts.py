"""List the images of a set for anomaly detection: MVTec AD's folders, a folder of normal images, a CSV file, or generated textures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.data.image_folders import existing_folder, source_of_files, unlabeled_folder
from edgekit.data.masks import check_mask, no_defect, read_mask
from edgekit.data.source import ImageSource, at
from edgekit.data.textures import GOOD, TEXTURES, texture, textures
from edgekit.errors import DataError
from edgekit.recipe import DataConfig
from edgekit.text import counted
from edgekit.walk import ImageFile, Walk, is_folder

KEY = "data.normal"
Part = Literal["train", "validation", "test", "any"]
Mask = NDArray[np.bool_]

NORMAL = frozenset({GOOD, "ok", "normal"})  # names of folders and labels of normal images, in lower case
# Of folders that hold no normal images, whatever lies beside them.
_DEFECTIVE = frozenset(
    {
        "defect",
        "defects",
        "defective",
        "anomaly",
        "anomalies",
        "anomalous",
        "abnormal",
        "bad",
        "ng",
        "nok",
        "not_ok",
        "faulty",
    }
)
_LAYOUT = "train/good, test/good, test/DEFECT and ground_truth/DEFECT, as in MVTec AD"


@dataclass(frozen=True)
class AnomalyImages:
    """The images of a set, as they are listed; nothing is decoded.

    Attributes:
        source: all images.
        parts: of each image: train, validation (normal images to set the threshold on), test, or any: normal, to be divided.
        defects: of each image: `good`, or the name of its defect.
        mask: from a position to bool (height, width) at the image's own size; None for an anomalous image without a mask.
    """

    source: ImageSource
    parts: list[Part]
    defects: list[str]
    mask: Callable[[int], Mask | None]


def list_images(data: DataConfig) -> AnomalyImages:
    """List the images of `data.normal`.

    Raises:
        DataError: it is missing, in none of the layouts, lacks normal images, has defects among the training images, or a mask without an
            image or of another size.
    """
    assert data.normal is not None
    if data.normal == TEXTURES:
        return _textures(data)
    path = Path(data.normal).expanduser()
    if path.suffix.lower() == ".csv" and not path.is_dir():
        from edgekit.data.anomaly_table import list_table

        return list_table(data.normal, data.max_pixels)
    root = existing_folder(data.normal, KEY)
    folders = {entry.name.lower(): entry.name for entry in Walk().entries(root) if is_folder(entry)}
    if "train" in folders:
        return _Folders(data.normal, root, folders).images(data.max_pixels)
    _refuse_parts(data.normal, folders)
    source = unlabeled_folder(data.normal, KEY, data.max_pixels)
    return AnomalyImages(
        source, ["train"] * len(source.names), [GOOD] * len(source.names), lambda i: no_defect(root / source.names[i])
    )


def _refuse_parts(where: str, folders: dict[str, str]) -> None:
    """Refuse a folder that is not flat, but holds defects beside normal images, or whose name says that it holds defects."""
    special = [name for lower, name in folders.items() if lower in {"test", "ground_truth", *NORMAL}]
    if special and (len(folders) > 1 or special[0].lower() not in NORMAL):
        others = [name for name in folders.values() if name not in special]
        beside = f" and {others[0]}/" if others else ""
        raise DataError(
            f"{at(KEY, where)}: holds {special[0]}/{beside}, but no train/",
            f"name a folder of normal images alone, or one with {_LAYOUT}",
        )
    named = Path(where).expanduser().resolve().name
    defective = [f"{name}/" for lower, name in folders.items() if lower in _DEFECTIVE]
    if defective or named.lower() in _DEFECTIVE:
        what = f"holds {defective[0]}" if defective else f"is named {named}"
        raise DataError(
            f"{at(KEY, where)}: {what}, but must hold normal images alone",
            f"name a folder of normal images, or one with {_LAYOUT}; if its images are normal, rename it",
        )


def _textures(data: DataConfig) -> AnomalyImages:
    listed = textures()
    names = [name for name, _ in listed]
    source = ImageSource(where=TEXTURES, names=names, read=lambda i: Image.fromarray(texture(names[i])[0]))
    return AnomalyImages(
        source,
        ["train" if name.startswith("train/") else "test" for name in names],
        [defect for _, defect in listed],
        lambda i: texture(names[i])[1],
    )


class _Folders:
    """MVTec AD's layout (Bergmann et al. 2021), and `validation/good` of its later sets."""

    def __init__(self, where: str, root: Path, folders: dict[str, str]) -> None:
        self.where = where
        self.root = root
        self.folders = folders
        self.walk = Walk()
        self.notes: list[str] = []
        self.files: list[ImageFile] = []
        self.parts: list[Part] = []
        self.defects: list[str] = []

    def images(self, max_pixels: int) -> AnomalyImages:
        self._normal("train", "train")
        if not self.files:
            train = self.folders["train"]
            raise DataError(
                f"{at(KEY, self.where)}: {train}/ holds no normal images", f"put them into {self.where}/{train}/{GOOD}/"
            )
        if "validation" in self.folders:
            self._normal("validation", "validation")
        if "test" in self.folders:
            self._test()
        masks = self._masks() if "ground_truth" in self.folders else {}
        unmasked = [i for i, defect in enumerate(self.defects) if defect != GOOD and i not in masks]
        if masks and unmasked:
            first = self.files[unmasked[0]].name
            self.notes.append(
                f"{len(unmasked)} anomalous images of {self.where} have no mask and do not count in pixel scores: {first}"
            )
        source = source_of_files(
            self.where, self.root, self.files, max_pixels, notes=[*self.notes, *self.walk.notes(self.where)]
        )
        return AnomalyImages(
            source, self.parts, self.defects, mask_reader(self.root, source.names, self.defects, masks)
        )

    def _normal(self, folder: str, part: Part) -> None:
        """Add the images of train/ or validation/: those of good/; without any folder in it, all."""
        name = self.folders[folder]
        entries = self.walk.entries(self.root / name)
        loose = [file for e in entries if not is_folder(e) and (file := self.walk.file(e, f"{name}/{e.name}"))]
        inside = {e.name: list(self.walk.below(e, f"{name}/{e.name}")) for e in entries if is_folder(e)}
        odd = [sub for sub, files in inside.items() if files and sub.lower() not in NORMAL]
        if odd:
            images = len(inside[odd[0]])
            more = f", and {len(odd) - 1} more folders" if len(odd) > 1 else ""
            raise DataError(
                f"{at(KEY, self.where)}: {name}/ must hold normal images alone, in {name}/{GOOD}/, but it has {odd[0]}/ "
                f"({counted(images, 'image')}){more}",
                f"move it into {self.where}/test/; or if its images are normal, into {self.where}/{name}/{GOOD}/",
            )
        files = [file for sub in inside.values() for file in sub]
        if files and loose:
            self.notes.append(f"left out {counted(len(loose), 'image')} of {self.where}/{name} in no folder")
        self._add(files or loose, part, GOOD)

    def _test(self) -> None:
        name = self.folders["test"]
        for entry in self.walk.entries(self.root / name):
            path = f"{name}/{entry.name}"
            if is_folder(entry):
                files = list(self.walk.below(entry, path))
                self._add(files, "test", GOOD if entry.name.lower() in NORMAL else entry.name)
            elif self.walk.file(entry, path) is not None:
                raise DataError(
                    f"{at(KEY, self.where)}: {path} is in no folder, so nothing says whether it is normal",
                    f"put normal images into {name}/{GOOD}/, and others into {name}/DEFECT/",
                )

    def _add(self, files: Sequence[ImageFile], part: Part, defect: str) -> None:
        self.files += files
        self.parts += [part] * len(files)
        self.defects += [defect] * len(files)

    def _masks(self) -> dict[int, Path]:
        """Return the mask of each image that has one, by its position: DEFECT/NAME_mask.png, or DEFECT/NAME.png."""
        name = self.folders["ground_truth"]
        tests = {
            os.path.splitext(file.name)[0].split("/", 1)[1]: i
            for i, (file, part) in enumerate(zip(self.files, self.parts, strict=True))
            if part == "test"
        }
        masks: dict[int, Path] = {}
        for file in Walk().images(self.root / name):
            stem = os.path.splitext(file.name)[0]
            i = tests.get(stem.removesuffix("_mask"), tests.get(stem))
            path, where = self.root / name / file.name, at(KEY, self.where)
            if i is None:
                raise DataError(
                    f"{where}: the mask {name}/{file.name} has no image {self.folders.get('test', 'test')}/{stem.removesuffix('_mask')}.*",
                    "add the image, or remove the mask",
                )
            if self.defects[i] == GOOD:
                raise DataError(
                    f"{where}: the mask {name}/{file.name} belongs to a normal image ({self.files[i].name})",
                    "remove the mask, or move the image into the folder of its defect",
                )
            if i in masks:
                raise DataError(
                    f"{where}: {self.files[i].name} has two masks: {masks[i].name} and {path.name}", "keep one"
                )
            check_mask(path, self.root / self.files[i].name, where)
            masks[i] = path
        return masks


def mask_reader(
    root: Path, names: Sequence[str], defects: Sequence[str], masks: dict[int, Path]
) -> Callable[[int], Mask | None]:
    """Return the function `AnomalyImages.mask` for image files below `root`, whose masks are given by position."""

    def read(i: int) -> Mask | None:
        if defects[i] == GOOD:
            return no_defect(root / names[i])
        return read_mask(masks[i]) if i in masks else None

    return read


__all__ = ["GOOD", "KEY", "NORMAL", "AnomalyImages", "Part", "list_images", "mask_reader"]
