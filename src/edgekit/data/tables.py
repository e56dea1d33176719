"""Parquet tables of encoded images, as Hugging Face writes them, read from disk with pyarrow."""

from __future__ import annotations

import os
import re
import stat
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.data.files import Files
from edgekit.data.images import Skipped
from edgekit.data.source import ImageSource, at, numbered
from edgekit.data.workers import slow_progress
from edgekit.errors import DataError, near
from edgekit.foreign import Unreadable, parse_json, understood
from edgekit.preprocess import open_image
from edgekit.recipe import DataConfig
from edgekit.text import counted

_MOST_ROWS = 8  # per byte: even a constant column takes one bit for eight rows
_GROUPS = 4  # row groups in memory: as many as threads that decode in order read at the same time
_SPLIT = re.compile(r"^(.+)-\d{5}-of-\d{5}")  # as Hugging Face names the files of a split


def open_tables(files: Files, key: str, data: DataConfig, labeled: bool) -> ImageSource:
    """Open the rows of all tables, in the order of the file names.

    Args:
        files: the .parquet files.
        key: the recipe's key that named them, for error messages.
        data: the recipe's part: `image_column`, `label_column`, `class_names`.
        labeled: whether labels are wanted.

    Raises:
        DataError: a file is not a Parquet table, lacks a column, or has one of another type; or the labels are invalid.
    """
    where = at(key, files.where)
    _refuse_several_splits(files, where)
    tables = [_Table(files.path(i), files.names[i], data, labeled) for i in range(len(files.names))]
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    stamps: list[tuple[Any, ...]] = []
    labels: list[int | str] = []
    lost: list[Skipped] = []
    with slow_progress("index", len(tables), "tables") as advance:
        for number, table in enumerate(tables):
            values = table.labels() if labeled else None
            row = 0
            for group, rows in enumerate(table.rows):
                for inside in range(rows):
                    name = f"{table.name}/{row:07}"
                    label = values[row] if values is not None else None
                    if labeled and label is None:
                        lost.append(Skipped(os.path.join(files.base, name), f"its {data.label_column} is empty"))
                    else:
                        names.append(name)
                        places.append((number, group, inside))
                        stamps.append((*table.stamp, row))
                        labels += [label] if label is not None else []
                    row += 1
            advance(1)
    if not names:
        raise DataError(f"{where}: holds no {'labeled ' if labeled else ''}rows", "give a table with rows")
    classes, numbers = numbered(labels, data.class_names, where) if labeled else ([], None)
    return ImageSource(
        where=files.where,
        names=names,
        read=_TableReader(tables, names, np.array(places, dtype=np.int64), data.max_pixels),
        stamp=stamps,
        labels=numbers,
        classes=classes,
        base=files.base,
        lost=lost,
        streamable=False,
    )


def _refuse_several_splits(files: Files, where: str) -> None:
    """Refuse several splits: a folder of Hugging Face may hold the test set beside the training set."""
    splits = sorted({match[1] for name in files.names if (match := _SPLIT.match(os.path.basename(name)))})
    if len(splits) > 1:
        first = os.path.join(files.base, f"{splits[-1]}-*.parquet")
        raise DataError(f"{where}: holds several splits ({', '.join(splits)})", f"name one of them, like {first}")


def _opened(path: Path) -> tuple[Any, list[int], os.stat_result]:
    """Open a table; return its file, the number of rows of each row group, and its status.

    Raises:
        Unreadable: it is not a Parquet table, or claims more rows than its bytes can hold.
    """
    import pyarrow.parquet as pq

    with understood(path, "a readable Parquet table"):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(path, "not a regular file")
        file = pq.ParquetFile(path)
        rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        if min(rows, default=0) < 0 or sum(rows) > _MOST_ROWS * status.st_size:
            raise ValueError(f"it claims {sum(rows):,} rows in {status.st_size:,} bytes")
        return file, rows, status


class _Table:
    """One file: its columns, checked, and its labels."""

    def __init__(self, path: Path, name: str, data: DataConfig, labeled: bool) -> None:
        self.path = path
        self.name = name
        self.image, self.label = data.image_column, data.label_column
        try:
            self.file, self.rows, status = _opened(path)
        except Unreadable as error:
            raise DataError(f"{path}: is not a readable Parquet table: {error.detail}", "check the file") from error
        self.stamp = (os.fspath(path.resolve()), status.st_size, status.st_mtime_ns, self.image)
        self.schema = self.file.schema_arrow
        self._require(self.image, "data.image_column")
        self._check_image_type()
        if labeled:
            self._require(self.label, "data.label_column")

    def labels(self) -> list[int | str | None]:
        """Return the label of each row: a name if the table has one, else a number; None without a label."""
        import pyarrow as pa

        kind = self.schema.field(self.label).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(
                f"{self.path}: its column {self.label} is of type {kind}", "labels must be integers or names (strings)"
            )
        try:
            with understood(self.path, "a column of a Parquet table"):
                values = self.file.read(columns=[self.label]).column(0).to_pylist()
                if len(values) != sum(self.rows):
                    raise ValueError(f"it has {len(values)} values for {sum(self.rows)} rows")
        except Unreadable as error:
            raise DataError(
                f"{self.path}: its column {self.label} cannot be read: {error.detail}", "check the file"
            ) from error
        names = self._class_names()
        if names is None:
            return values
        return [names[v] if isinstance(v, int) and 0 <= v < len(names) else None for v in values]

    def images(self, group: int) -> Any:
        """Read the image column of a row group.

        Raises:
            Unreadable: it is damaged.
        """
        with understood(self.path, "a row group of a Parquet table"):
            column = self.file.read_row_group(group, columns=[self.image]).column(0)
            if len(column) != self.rows[group]:
                raise ValueError(f"it has {counted(len(column), 'image')} for {counted(self.rows[group], 'row')}")
            return column

    def _class_names(self) -> list[str] | None:
        """Return the class names of Hugging Face's ClassLabel, from the metadata of the schema."""
        try:
            metadata = parse_json((self.schema.metadata or {})[b"huggingface"], self.path)
            names = metadata["info"]["features"][self.label]["names"]
        except (Unreadable, KeyError, TypeError):
            return None
        return [str(name) for name in names] if isinstance(names, list) and names else None

    def _require(self, column: str, key: str) -> None:
        if column not in self.schema.names:
            raise DataError(
                f"{self.path}: has no column {column}, its columns are {', '.join(self.schema.names)}",
                near(column, self.schema.names) or f"name the column with {key}",
            )

    def _check_image_type(self) -> None:
        import pyarrow as pa

        kind = self.schema.field(self.image).type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise DataError(
                f"{self.path}: its column {self.image} is of type {kind}",
                "images must be encoded files: binary, or a struct of bytes and path; choose the column with data.image_column",
            )


class _TableReader:
    """Reads the image of a row; keeps a few row groups, because a row group can only be read as a whole."""

    def __init__(self, tables: list[_Table], names: list[str], places: NDArray[np.int64], max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self.tables = tables
        self.names = names
        self.places = places
        self.lock = Lock()
        self.groups: OrderedDict[tuple[int, int], Any] = OrderedDict()

    def __call__(self, i: int) -> Image.Image:
        table, group, row = (int(n) for n in self.places[i])
        column = self._group(table, group)
        if isinstance(column, Unreadable):
            raise DataError(f"its row group cannot be read: {column.detail}", where=self.names[i])
        try:
            with understood(self.names[i], "a value of a Parquet table"):
                value = column[row].as_py()
        except Unreadable as error:
            raise DataError(error.reason, where=self.names[i]) from error
        content = value.get("bytes") if isinstance(value, dict) else value
        try:
            if content is None and isinstance(value, dict) and value.get("path"):
                return open_image(self.tables[table].path.parent / value["path"], self.max_pixels)
            if content is None:
                raise DataError("it is empty")
            return open_image(content, self.max_pixels)
        except DataError as error:
            if content is None:  # the file that the row names is elsewhere
                raise DataError(error.message, error.hint, where=self.names[i]) from error
            raise error.at(self.names[i]) from error

    def _group(self, table: int, group: int) -> Any:
        """Return the images of a row group, or the error of reading it (read once, for all its rows)."""
        with self.lock:
            key = (table, group)
            if key not in self.groups:
                if len(self.groups) >= _GROUPS:
                    self.groups.popitem(last=False)
                try:
                    self.groups[key] = self.tables[table].images(group)
                except Unreadable as error:
                    self.groups[key] = error
            self.groups.move_to_end(key)
            return self.groups[key]
