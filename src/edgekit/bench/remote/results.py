"""Receive the files that a device sends into a temporary folder, check them, and only then keep them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO

from edgekit.bench.remote import replies
from edgekit.bench.remote.replies import BenchOutput, FileEvent, NotMeasured, ProtocolError, protocol_error
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, quoted
from edgekit.files import atomic_write
from edgekit.foreign import Unreadable, read_bytes
from edgekit.result import Latency, Profile, Result
from edgekit.temporary import remove_debris, temporary_folder


@dataclass(frozen=True)
class DeviceResults:
    """The results of a bench on a device.

    Attributes:
        results: each with its file on this machine, in the order of the bench.
        failed, left_out: the variants that were not measured, and why.
    """

    results: list[tuple[Result, Path]]
    failed: list[NotMeasured]
    left_out: list[NotMeasured]


class Inbox:
    """The files of one bench during the transfer. A context manager: at its end it removes the files that were not kept, and the folders
    that it made for them if nothing was kept.

    Args:
        output: the folder for the files.
        source: the device's name for messages.
        listed: the names of the files, as the device listed them.

    Raises:
        ProtocolError: one of the names leaves the bench's folder.
        EdgekitError: the folder cannot be written.
    """

    def __init__(self, output: Path, source: str, listed: Sequence[str]) -> None:
        self._output, self._source = output, source
        names = list(dict.fromkeys(listed))
        self.names = [name for name in names if replies.file_to_fetch(name, source)]
        self.others = [name for name in names if name not in set(self.names)]
        self._sizes: dict[str, int] = {}
        self._made = [folder for folder in (output, *output.parents) if not folder.exists()]  # the innermost first
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
        with suppress(OSError):  # not empty: a result was kept, or another device's bench has its folder there
            for folder in self._made:
                folder.rmdir()

    @contextmanager
    def receive(self, announced: FileEvent) -> Iterator[BinaryIO]:
        """Open a file for the bytes that the device announces.

        Raises:
            ProtocolError: the file was not requested, or is larger than results are.
        """
        if announced.path not in self.names:
            raise protocol_error(self._source, f"sends a file that was not requested: {quoted(announced.path)}")
        self._sizes[announced.path] = announced.bytes
        if announced.bytes > replies.MOST_FILE or sum(self._sizes.values()) > replies.MOST_FETCHED:
            raise ProtocolError(
                f"{announced.path} is too large to fetch: {announced.bytes:,} bytes",
                "measure for a shorter time, or copy the file yourself",
                where=self._source,
            )
        free = shutil.disk_usage(self._folder).free
        if announced.bytes > free:
            raise EdgekitError(
                f"no space left in {self._output}: {announced.path} needs {announced.bytes:,} bytes, {free:,} are free",
                "free some space, or give another --output",
                where=self._source,
            )
        path = self._folder / announced.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as stream:
            yield stream

    def keep(self, bundle: Bundle, *, killed: bool = False) -> DeviceResults:
        """Check all files, and move the results to the output folder.

        Args:
            bundle: the measured bundle.
            killed: whether the bench was killed, so that its output may be incomplete.

        Raises:
            ProtocolError: a file is missing or not a result of this bundle, or the bench's output names another file.
        """
        if missing := [name for name in self.names if name not in self._sizes]:
            raise protocol_error(self._source, f"did not send {quoted(missing[0])}")
        checked = {name: self._checked(name, bundle) for name in self.names if replies.is_result(name)}
        printed = BenchOutput() if killed else self._printed()
        results = []
        for row in printed.results:
            name = f"results/{row.file.rpartition('/results/')[2]}"
            if name not in checked:
                raise protocol_error(self._source, f"names a result that it did not send: {quoted(row.file)}")
            results.append((checked[name], self._target(name)))
        known = {variant.id for variant in bundle.manifest.variants}
        for reason in (*printed.failed, *printed.left_out):
            if reason.variant not in known:
                raise protocol_error(
                    self._source, f"names a variant that the bundle does not have: {quoted(reason.variant)}"
                )
        for name in self.names:
            if name != replies.OUTPUT_FILE:
                with open(self._folder / name, "rb") as arrived, atomic_write(self._target(name)) as stream:
                    shutil.copyfileobj(arrived, stream)
        return DeviceResults(results, printed.failed, printed.left_out)

    def _target(self, name: str) -> Path:
        return self._output / PurePosixPath(name).relative_to("results")

    def _printed(self) -> BenchOutput:
        if replies.OUTPUT_FILE not in self.names:
            return BenchOutput()
        try:
            content = read_bytes(self._folder / replies.OUTPUT_FILE, replies.MOST_OUTPUT)
        except Unreadable as error:
            raise protocol_error(self._source, f"sends an invalid output of its bench: {error.reason}") from error
        return replies.parse_output(content, self._source)

    def _checked(self, name: str, bundle: Bundle) -> Result:
        return check_result(read_bytes(self._folder / name, replies.MOST_FILE), name, bundle, self._source)


def check_result(content: bytes, name: str, bundle: Bundle, source: str) -> Result:
    """Return the result in a file that a device sent, if it measures this bundle.

    Args:
        content: the file's bytes.
        name: the file's name.
        bundle: the measured bundle.
        source: the device's name for messages.

    Raises:
        ProtocolError: it is not a result, or measures something else.
    """
    try:
        result = Result.parse(content, name)
    except EdgekitError as error:
        raise protocol_error(source, f"sends an invalid result: {error.message}") from error
    measured = result.measurement
    if not isinstance(measured, (Latency, Profile)):
        raise protocol_error(source, f"sends {name}, a result of kind {measured.kind} and not of a bench")
    if measured.bundle_digest != bundle.digest:
        raise protocol_error(source, f"sends {name}, a result of another bundle")
    if measured.variant not in {variant.id for variant in bundle.manifest.variants}:
        raise protocol_error(
            source, f"sends {name}, a result of a variant that the bundle does not have: {quoted(measured.variant)}"
        )
    if isinstance(measured, Latency) and sum(len(text) + 100 for text in measured.warnings) > replies.MOST_WARNINGS:
        raise protocol_error(source, f"sends {name} with more than {replies.MOST_WARNINGS:,} characters of warnings")
    return result
