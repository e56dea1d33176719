"""Find shards or tables by name: one file, a folder of them, a glob, a brace range."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from edgekit.data.source import at, extensions
from edgekit.errors import DataError
from edgekit.walk import is_system

Kind = Literal["tar", "parquet"]
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
_MOST = 1_000_000  # largest number of files of a brace range


@dataclass(frozen=True)
class Files:
    """Shards or tables, all of one kind.

    Args:
        where: as the recipe names them.
        kind: tar or parquet.
        base: the folder that contains all of them; empty for the current one.
        names: paths relative to `base`, with forward slashes; sorted, each once.
    """

    where: str
    kind: Kind
    base: str
    names: list[str]

    def path(self, index: int) -> Path:
        """Return the path of a file."""
        return Path(self.base, self.names[index]).expanduser()


def find_files(where: str, key: str) -> Files | None:
    """Return the shards or tables that `where` names; None if it is a folder of something else, or does not exist.

    Raises:
        DataError: a file is missing, the files are of two kinds, an archive is compressed, or the path is not on this machine.
    """
    if "://" in where or where.startswith("pipe:"):
        raise DataError(
            f"{at(key, where)}: is not a path on this machine", "mount or copy the files, and give their path"
        )
    path = Path(where).expanduser()
    if path.is_dir():
        names = _in_folder(where)
    elif path.exists():
        names = [where]
        if _kind(where) is None and not where.lower().endswith(_COMPRESSED):
            return None
    elif any(c in where for c in "{*?["):
        names = _expanded(where, key)
    elif _kind(where) is not None:
        raise DataError(
            f"{at(key, where)}: no such file", "relative paths start at the folder that the command runs in"
        )
    else:
        return None
    if not names:
        return None
    for name in names:
        if name.lower().endswith(_COMPRESSED):
            raise DataError(
                f"{at(key, name)}: is a compressed archive, which cannot be read in random order",
                "decompress it to .tar: encoded images hardly shrink",
            )
    kinds = {_kind(name) for name in names}
    if len(kinds) > 1 or None in kinds:
        odd = next(name for name in names if _kind(name) is None or _kind(name) != _kind(names[0]))
        raise DataError(
            f"{at(key, where)}: includes {odd}; all files must be .tar, or all .parquet", "name files of one kind"
        )
    kind = kinds.pop()
    assert kind is not None
    names = sorted(set(names))
    base = os.path.commonpath([os.path.dirname(name) for name in names])
    return Files(where, kind, base, [os.path.relpath(name, base or ".").replace(os.sep, "/") for name in names])


def _kind(name: str) -> Kind | None:
    kinds: dict[str, Kind] = {".tar": "tar", ".parquet": "parquet"}
    return kinds.get(os.path.splitext(name)[1].lower())


def _in_folder(where: str) -> list[str]:
    """Return the shards and tables of a folder that holds neither images nor folders."""
    paths = []
    try:
        entries = sorted(os.listdir(Path(where).expanduser()))
    except OSError:  # reported when it is listed as a folder of images
        return []
    for name in entries:
        if is_system(name):
            continue
        if Path(where, name).expanduser().is_dir() or os.path.splitext(name)[1].lower() in extensions():
            return []
        if _kind(name) is not None or name.lower().endswith(_COMPRESSED):
            paths.append(os.path.join(where, name))
    return paths


def _expanded(where: str, key: str) -> list[str]:
    """Expand brace ranges and globs; a missing file of a range is an error."""
    from braceexpand import braceexpand

    try:
        patterns = list(islice(braceexpand(where), _MOST + 1))
    except ValueError as error:
        raise DataError(f"{at(key, where)}: unbalanced braces", "write a range like {000..099}") from error
    if len(patterns) > _MOST:
        raise DataError(f"{at(key, where)}: names more than {_MOST:,} files", "write a range like {000..099}")
    paths, missing = [], []
    exists: Callable[[str], bool] = lambda path: os.path.isfile(os.path.expanduser(path))  # noqa: E731
    for pattern in patterns:
        globbed = any(c in pattern for c in "*?[") and not exists(pattern)
        matches = glob.glob(os.path.expanduser(pattern), recursive=True) if globbed else [pattern] * exists(pattern)
        paths += [match for match in matches if not globbed or os.path.isfile(match)]
        if not matches:
            missing.append(pattern)
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(
            f"{at(key, where)}: no such file: {missing[0]}{more}",
            "relative paths start at the folder that the command runs in; name only existing files",
        )
    return paths
