"""List the images of a set for anomaly detection from a CSV file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from edgekit.data.anomaly_layouts import GOOD, KEY, NORMAL, AnomalyImages, Part, mask_reader
from edgekit.data.image_folders import source_of_files
from edgekit.data.masks import check_mask
from edgekit.data.source import at
from edgekit.errors import DataError, near, shortened
from edgekit.foreign import Unreadable, read_csv
from edgekit.walk import ImageFile

_FILE = ("file", "path", "image")  # accepted names of the column with the images
_NORMAL = NORMAL | {"0"}
_ANOMALOUS = {"1": "anomalous"}
_SPLITS: dict[str, Part] = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_HINT = "the first line must be a header like file,label,mask,split"


def list_table(where: str, max_pixels: int) -> AnomalyImages:
    """List the images of a CSV file in UTF-8 with a header.

    Its columns: `file` (or `path`, or `image`), relative to the folder of the CSV file; `label`: good, normal, ok or 0 for normal images,
    anything else is the name of the defect; `mask`, which may be empty or missing; and `split`: train, validation or test. Without the column `split`
    the anomalous images are test images, and the normal ones are divided between training and test.

    Args:
        where: path of the file.
        max_pixels: the largest number of pixels that is decoded.

    Raises:
        DataError: the file is missing, is not such a CSV file, names a file that is not there, or is inconsistent.
    """
    path = Path(where).expanduser()
    table = _Table(where, path.parent)
    try:
        columns, rows = read_csv(path)
        table.check_columns(columns)
        for line, row in rows:
            table.add(line, row)
    except Unreadable as error:
        why = "no such file" if error.missing else f"cannot be read: {error.detail}"
        raise DataError(f"{at(KEY, where)}: {why}", "give a CSV file in UTF-8") from error
    return table.images(max_pixels)


class _Table:
    def __init__(self, where: str, root: Path) -> None:
        self.where = at(KEY, where)
        self.named = where
        self.root = root
        self.files: list[ImageFile] = []
        self.parts: list[Part] = []
        self.defects: list[str] = []
        self.masks: dict[int, Path] = {}
        self.lines: dict[str, int] = {}
        self.column = ""
        self.has_split = False

    def check_columns(self, columns: list[str]) -> None:
        listed = shortened(", ".join(columns), 500) or "none"
        self.column = next((name for name in _FILE if name in columns), "")
        for name in ("file" if not self.column else "", "label" if "label" not in columns else ""):
            if name:
                raise DataError(f"{self.where}: has no column `{name}`, its columns are {listed}", _HINT)
        self.has_split = "split" in columns

    def add(self, line: int, row: Mapping[str, str]) -> None:
        where = f"{self.where}, line {line}"
        name = str(PurePosixPath(row[self.column].strip().replace("\\", "/")))
        label = row["label"].strip()
        if not label:
            raise DataError(f"{where}: {name} has no label", f"write {GOOD}, or the name of the defect")
        defect = GOOD if label.lower() in _NORMAL else _ANOMALOUS.get(label, label)
        if name in self.lines:
            raise DataError(f"{where}: {name} is also on line {self.lines[name]}", "keep one of the two lines")
        self.lines[name] = line
        self.files.append(self._file(name, where))
        self.parts.append(self._part(row, name, defect, where))
        self.defects.append(defect)
        if mask := row.get("mask", "").strip():
            self._mask(mask, name, defect, where)

    def _file(self, name: str, where: str) -> ImageFile:
        try:
            status = (self.root / name).stat()
        except (OSError, ValueError) as error:
            raise DataError(
                f"{where}: {name}: no such file", f"names are relative to the folder of the CSV file, {self.root}"
            ) from error
        return ImageFile(name, status.st_size, status.st_mtime_ns)

    def _part(self, row: Mapping[str, str], name: str, defect: str, where: str) -> Part:
        if not self.has_split:
            return "any" if defect == GOOD else "test"
        text = row["split"].strip().lower()
        if text not in _SPLITS:
            raise DataError(
                f"{where}: {text or 'an empty text'} is not a split",
                near(text, _SPLITS) or "write train, validation or test",
            )
        part = _SPLITS[text]
        if part != "test" and defect != GOOD:
            raise DataError(
                f"{where}: {name} is anomalous ({defect}), but its split is {text}",
                "only normal images are trained on: make its split test",
            )
        return part

    def _mask(self, mask: str, name: str, defect: str, where: str) -> None:
        if defect == GOOD:
            raise DataError(f"{where}: {name} is normal, but has a mask", "remove the mask, or correct the label")
        path = self.root / mask.replace("\\", "/")
        if not path.exists():
            raise DataError(
                f"{where}: the mask {mask}: no such file",
                f"names are relative to the folder of the CSV file, {self.root}",
            )
        check_mask(path, self.root / name, where)
        self.masks[len(self.files) - 1] = path

    def images(self, max_pixels: int) -> AnomalyImages:
        if not any(part in {"train", "any"} for part in self.parts):
            raise DataError(f"{self.where}: lists no normal images to train on", f"add lines with the label {GOOD}")
        source = replace(source_of_files(self.named, self.root, self.files, max_pixels), base=os.fspath(self.root))
        return AnomalyImages(
            source, self.parts, self.defects, mask_reader(self.root, source.names, self.defects, self.masks)
        )
