"""Sources of images to classify: files and folders, a list of names on a stream, the frames of a video or a camera."""

from __future__ import annotations

import os
import select
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from edgekit.errors import DataError, RuntimeMissing
from edgekit.walk import Walk

_CAMERA = "camera:"
_BLOCK = 1 << 16
_TURN = 0.5  # seconds


def image_files(sources: Iterable[Path], left_out: Counter[str] | None = None) -> list[Path]:
    """Return the files among `sources`, and for each folder the images in and below it, by file name (see `edgekit.walk`), sorted.

    Args:
        sources: files and folders.
        left_out: counts, by extension, the files in folders that are not images by their names.

    Raises:
        DataError: a folder has no images, or cannot be listed.
    """
    files: list[Path] = []
    for source in sources:
        if not source.is_dir():
            files.append(source)  # reading it later shows whether it can be read
            continue
        walk = Walk()
        inside = _inside(source, walk)
        if not inside:
            instead = "".join(f" ({note})" for note in walk.notes(str(source)))
            raise DataError(f"{source}: no image in this folder{instead}", "give image files, or a folder with images")
        files += inside
        if left_out is not None:
            left_out.update(walk.left_out)
    return files


def listed(stream: BinaryIO, left_out: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the files that a stream lists, as their names arrive, and for each folder the images below it.

    Names end with NUL (`find … -print0`) if the first block has a NUL, otherwise with a newline; empty names are skipped.
    A folder without images is yielded itself, so that reading it reports the error.

    Args:
        stream: a byte stream.
        left_out: see `image_files`.

    Raises:
        DataError: a folder cannot be listed.
    """
    for name in _names(stream):
        path = Path(os.fsdecode(name))
        walk = Walk()
        yield from (_inside(path, walk) if path.is_dir() else []) or [path]
        if left_out is not None:
            left_out.update(walk.left_out)


def _names(stream: BinaryIO) -> Iterator[bytes]:
    read = getattr(stream, "read1", stream.read)  # returns available bytes without waiting for a whole block
    _wait(stream)
    rest = read(_BLOCK)
    end = b"\0" if b"\0" in rest else b"\n"
    block = rest
    while block:
        *names, rest = rest.split(end)
        yield from (name.rstrip(b"\r") if end == b"\n" else name for name in names if name.strip())
        _wait(stream)
        block = read(_BLOCK)
        rest += block
    if rest.strip():
        yield rest


def _wait(stream: BinaryIO) -> None:
    """Wait for bytes in turns, between which Python answers signals: one that arrives just before a read that blocks does not end the read."""
    # Not a file of the system, or none that can be waited for: the read says what is wrong.
    with suppress(OSError, ValueError, AttributeError):
        number = stream.fileno()
        while not select.select([number], [], [], _TURN)[0]:
            pass


def _inside(folder: Path, walk: Walk) -> list[Path]:
    return [folder / image.name for image in walk.images(folder)]


@dataclass(frozen=True)
class InputFrame:
    """A frame of a video or a camera.

    Attributes:
        number: from 0.
        seconds: since the video's beginning; None if a camera does not report it.
        image: upright RGB.
    """

    number: int
    seconds: float | None
    image: Image.Image


class Video:
    """The frames of a video file or of a camera. Needs OpenCV.

    Args:
        source: a path, `camera:0` for the first camera, or the address of a stream that OpenCV reads (`rtsp://…`).

    Attributes:
        is_live: whether it is a camera or a stream, which may have to wait for the next frame.
        count: number of frames in the file; None for a live source, or if the file does not state it.

    Raises:
        RuntimeMissing: OpenCV is not installed.
        DataError: the file or camera cannot be opened, or has no frame.
    """

    def __init__(self, source: str) -> None:
        cv2 = _opencv()
        number = source.removeprefix(_CAMERA)
        is_camera = source.startswith(_CAMERA)
        self.is_live = is_camera or "://" in source
        if is_camera and not number.isdigit():
            raise DataError(f"{source}: no such camera", "the first camera is camera:0")
        if not self.is_live and not Path(source).is_file():
            raise DataError(f"{source}: no such file")
        self.source = source
        self._cv2 = cv2
        self._capture = cv2.VideoCapture(int(number) if is_camera else source)
        self._first: Any = self._capture.read() if self._capture.isOpened() else (False, None)
        if not self._first[0]:
            self.close()
            what = "no such camera, or another program has it" if is_camera else "not a video that OpenCV can read"
            raise DataError(f"{source}: {what}")
        count = 0 if self.is_live else int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 else None

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[InputFrame]:
        number = 0
        while self._first[0]:
            milliseconds = self._capture.get(self._cv2.CAP_PROP_POS_MSEC)
            seconds = milliseconds / 1e3 if milliseconds > 0 or number == 0 else None
            rgb = self._cv2.cvtColor(self._first[1], self._cv2.COLOR_BGR2RGB)
            yield InputFrame(number, seconds, Image.fromarray(rgb))
            self._first = self._capture.read()
            number += 1

    def close(self) -> None:
        """Release the file or camera."""
        self._capture.release()


def _opencv() -> Any:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # otherwise it logs every failed attempt to open a file
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise RuntimeMissing(
            f"a video or a camera needs OpenCV, which {'is not installed' if isinstance(error, ModuleNotFoundError) else f'does not load: {error}'}",
            "install edgekit's wheel with the extra [video]",
        ) from error
    return cv2
