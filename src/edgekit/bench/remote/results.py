"""The files that a device sends: received into a folder of their own, checked, and only then kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO

from edgekit.bench.remote import replies
from edgekit.bench.remote.replies import DataReply, Misbehaves, Printed, Reason, misbehaves
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, quoted
from edgekit.files import atomic_write
from edgekit.foreign import Unreadable, read_bytes
from edgekit.result import Latency, Profile, Result
from edgekit.temporary import remove_debris, temporary_folder


@dataclass(frozen=True)
class Brought:
    """What a bench on a device came to.

    Attributes:
        results: each with its file on this machine, in the order of the bench.
        failed, left_out: which variants were not measured, and why.
    """

    results: list[tuple[Result, Path]]
    failed: list[Reason]
    left_out: list[Reason]


class Inbox:
    """The files of one bench on their way here; a context, after which nothing is left of those that were not kept.

    Args:
        output: the folder that they are for.
        source: of the device, for messages.
        asked: the names of the files on the device, as it gave them.

    Raises:
        Misbehaves: one of the names leaves the bench's folder.
        EdgekitError: the folder cannot be written.
    """

    def __init__(self, output: Path, source: str, asked: Sequence[str]) -> None:
        self._output, self._source = output, source
        names = list(dict.fromkeys(asked))
        self.names = [name for name in names if replies.file_to_fetch(name, source)]
        self.others = [name for name in names if name not in set(self.names)]
        self._sizes: dict[str, int] = {}
        try:
            output.mkdir(parents=True, exist_ok=True)
            remove_debris(output)
            self._lock, self._folder = temporary_folder(output, ".fetch")
        except OSError as error:
            raise EdgekitError(f"cannot write {output}: {error.strerror or error}", "give another --output") from error

    def __enter__(self) -> Inbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)

    @contextmanager
    def receive(self, announced: DataReply) -> Iterator[BinaryIO]:
        """A file for the bytes that the device announces.

        Raises:
            Misbehaves: it was not asked for, or is larger than results are.
        """
        if announced.path not in self.names:
            raise misbehaves(self._source, f"sends a file that nobody asked for, {quoted(announced.path)}")
        self._sizes[announced.path] = announced.bytes
        if announced.bytes > replies.MOST_FILE or sum(self._sizes.values()) > replies.MOST_FETCHED:
            raise Misbehaves(
                f"{announced.path} of {announced.bytes:,} bytes is more than is taken from a device",
                "measure for a shorter time, or copy the file yourself",
                where=self._source,
            )
        free = shutil.disk_usage(self._folder).free
        if announced.bytes > free:
            raise EdgekitError(
                f"no space left in {self._output}: {announced.path} takes {announced.bytes:,} bytes, {free:,} are free",
                "free some space, or give another --output",
                where=self._source,
            )
        path = self._folder / announced.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as stream:
            yield stream

    def keep(self, bundle: Bundle, *, killed: bool = False) -> Brought:
        """Check everything, and put the results where they belong.

        Args:
            bundle: what was measured.
            killed: the bench was, so what it printed may be cut off.

        Raises:
            Misbehaves: a file is missing, is no result of this bundle, or what the bench printed names another.
        """
        if missing := [name for name in self.names if name not in self._sizes]:
            raise misbehaves(self._source, f"did not send {quoted(missing[0])}")
        checked = {name: self._checked(name, bundle) for name in self.names if replies.is_result(name)}
        printed = Printed() if killed else self._printed()
        results = []
        for row in printed.results:
            name = f"results/{row.file.rpartition('/results/')[2]}"
            if name not in checked:
                raise misbehaves(self._source, f"names a result that it did not send, {quoted(row.file)}")
            results.append((checked[name], self._target(name)))
        known = {variant.id for variant in bundle.manifest.variants}
        for reason in (*printed.failed, *printed.left_out):
            if reason.variant not in known:
                raise misbehaves(self._source, f"speaks of a variant {quoted(reason.variant)} that the bundle lacks")
        for name in self.names:
            if name != replies.PRINTED:
                with open(self._folder / name, "rb") as arrived, atomic_write(self._target(name)) as stream:
                    shutil.copyfileobj(arrived, stream)
        return Brought(results, printed.failed, printed.left_out)

    def _target(self, name: str) -> Path:
        return self._output / PurePosixPath(name).relative_to("results")

    def _printed(self) -> Printed:
        if replies.PRINTED not in self.names:
            return Printed()
        try:
            content = read_bytes(self._folder / replies.PRINTED, replies.MOST_PRINTED)
        except Unreadable as error:
            raise misbehaves(self._source, f"what its bench prints is {error.reason}") from error
        return replies.parse_printed(content, self._source)

    def _checked(self, name: str, bundle: Bundle) -> Result:
        return check_result(read_bytes(self._folder / name, replies.MOST_FILE), name, bundle, self._source)


def check_result(content: bytes, name: str, bundle: Bundle, source: str) -> Result:
    """A result that a device sent, if it is one of a bench on this bundle.

    Args:
        content: of the file.
        name: of the file.
        bundle: what was to be measured.
        source: of the device, for messages.

    Raises:
        Misbehaves: it is no result, or one of something else.
    """
    try:
        result = Result.parse(content, name)
    except EdgekitError as error:
        raise misbehaves(source, f"sends a result that cannot be understood: {error.message}") from error
    measured = result.measurement
    if not isinstance(measured, (Latency, Profile)):
        raise misbehaves(source, f"sends {name}, which is no measurement of a bench but of kind {measured.kind}")
    if measured.bundle_digest != bundle.digest:
        raise misbehaves(source, f"sends {name}, a result of another bundle")
    if measured.variant not in {variant.id for variant in bundle.manifest.variants}:
        raise misbehaves(source, f"sends {name}, of a variant {quoted(measured.variant)} that the bundle lacks")
    if isinstance(measured, Latency) and sum(len(text) + 100 for text in measured.warnings) > replies.MOST_WARNINGS:
        raise misbehaves(source, f"sends {name} with more warnings than anybody could read")
    return result
