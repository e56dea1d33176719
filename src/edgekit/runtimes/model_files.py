"""Access to a model's files for a session: on the disk, or in a bundle, of which only checked bytes reach a runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from edgekit import tasks
from edgekit.bundle import Bundle, BundleFile, Variant
from edgekit.files import copy_file, sha256
from edgekit.tasks import Task


class ModelFiles(Protocol):
    """A model: a file that a runtime opens, and optional files beside it.

    Attributes:
        path: of the opened file, for messages and its name.
        task: whose outputs the model gives.
    """

    path: Path
    task: Task

    def has(self, name: str) -> bool:
        """Whether the model has a file of this name."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            OSError, BundleError: it cannot be read, or has another digest than the bundle records.
        """
        ...

    @contextmanager
    def opened(self, *names: str) -> Iterator[list[str]]:
        """Yield paths under which this process can open the files until the block ends, in the order of the names.

        Raises:
            BundleError: one has another digest than the bundle records.
        """
        ...

    @contextmanager
    def placed(self, name: str) -> Iterator[Path]:
        """Yield the path of a file with its own name, beside its companion files, for another process, until the block ends.

        Raises:
            BundleError: it has another digest than the bundle records.
        """
        ...

    def digests(self, name: str) -> list[str]:
        """Return the SHA-256 of a file and of its external weights."""
        ...


class FilesOnDisk:
    """Files that edgekit has just written, or that the caller of `open_session` trusts.

    Args:
        path: of the opened file.
        task: whose outputs the model gives; None: the usual one, classification.
    """

    def __init__(self, path: Path, task: Task | None = None) -> None:
        self.path, self.task = path, task or tasks.find(tasks.DEFAULT)

    def has(self, name: str) -> bool:
        """See `ModelFiles.has`."""
        return name == Path(name).name and self.path.with_name(name).is_file()

    def read(self, name: str) -> bytes:
        """See `ModelFiles.read`."""
        return self.path.with_name(name).read_bytes()

    @contextmanager
    def opened(self, *names: str) -> Iterator[list[str]]:
        """See `ModelFiles.opened`."""
        yield [str(self.path.with_name(name)) for name in names]

    @contextmanager
    def placed(self, name: str) -> Iterator[Path]:
        """See `ModelFiles.placed`."""
        yield self.path.with_name(name)

    def digests(self, name: str) -> list[str]:
        """See `ModelFiles.digests`."""
        path = self.path.with_name(name)
        external = sorted(p for p in path.parent.glob(f"{path.name}*") if p != path and p.suffix in {".data", ".bin"})
        return [sha256(p) for p in (path, *external)]


class FilesOfBundle:
    """A variant's files: each is compared with its recorded digest while it is read, and no other file is opened.

    Args:
        bundle: an opened bundle.
        variant: one of its variants; the runtime opens its first file.
    """

    def __init__(self, bundle: Bundle, variant: Variant) -> None:
        self._bundle = bundle
        first = Path(variant.files[0].path)
        self._files = {Path(file.path).name: file for file in variant.files if Path(file.path).parent == first.parent}
        self.path, self.task = bundle.path / first, bundle.task

    def has(self, name: str) -> bool:
        """See `ModelFiles.has`."""
        return name in self._files

    def read(self, name: str) -> bytes:
        """See `ModelFiles.read`."""
        return self._bundle.read(self._file(name))

    @contextmanager
    def opened(self, *names: str) -> Iterator[list[str]]:
        """See `ModelFiles.opened`."""
        with ExitStack() as stack:
            yield [stack.enter_context(self._bundle.copied(self._file(name))) for name in names]

    @contextmanager
    def placed(self, name: str) -> Iterator[Path]:
        """See `ModelFiles.placed`."""

        from edgekit.temporary import scratch_folder

        with scratch_folder("model") as folder:
            with self._bundle.copied(self._file(name)) as source:
                copy_file(source, folder / name)
            yield folder / name

    def digests(self, name: str) -> list[str]:
        """See `ModelFiles.digests`."""
        return [self._file(name).sha256]

    def _file(self, name: str) -> BundleFile:
        return self._files[name]


def files_of(model: Path | ModelFiles) -> ModelFiles:
    """Return a path as files on the disk; return other files unchanged."""
    return FilesOnDisk(model) if isinstance(model, Path) else model
