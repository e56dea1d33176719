"""Where the images to classify come from: files and folders, a list of names on a stream, the frames of a video or a camera."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from edgekit.errors import DataError, RuntimeMissing
from edgekit.walk import Walk

_CAMERA = "camera:"
_BLOCK = 1 << 16


def image_files(sources: Iterable[Path], left_out: Counter[str] | None = None) -> list[Path]:
    """The files among `sources`, and of each folder the images at and below it, by the names of the files (see `edgekit.walk`), sorted.

    Args:
        sources: files and folders.
        left_out: counts the files of folders that are no image by their name, by extension.

    Raises:
        DataError: a folder holds no image, or cannot be listed.
    """
    found: list[Path] = []
    for source in sources:
        if not source.is_dir():
            found.append(source)  # whether it can be read shows when it is read
            continue
        walk = Walk()
        inside = _inside(source, walk)
        if not inside:
            instead = "".join(f" ({note})" for note in walk.notes(str(source)))
            raise DataError(
                f"{source}: no image in this folder{instead}", "give image files, or a folder that holds some"
            )
        found += inside
        if left_out is not None:
            left_out.update(walk.left_out)
    return found


def listed(stream: BinaryIO, left_out: Counter[str] | None = None) -> Iterator[Path]:
    """The files that a stream lists, one by one as their names arrive, and of each folder the images below it.

    Names end with NUL (`find … -print0`) if there is a NUL in what arrives first, else with a newline; an empty one is left out.
    A folder without images is given itself, so that whoever reads it reports it.

    Args:
        stream: of bytes.
        left_out: as of `image_files`.

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
    read = getattr(stream, "read1", stream.read)  # what is there already, without waiting for a whole block
    rest = read(_BLOCK)
    end = b"\0" if b"\0" in rest else b"\n"
    block = rest
    while block:
        *names, rest = rest.split(end)
        yield from (name.rstrip(b"\r") if end == b"\n" else name for name in names if name.strip())
        block = read(_BLOCK)
        rest += block
    if rest.strip():
        yield rest


def _inside(folder: Path, walk: Walk) -> list[Path]:
    return [folder / image.name for image in walk.images(folder)]


@dataclass(frozen=True)
class InputFrame:
    """One picture of a video or a camera.

    Attributes:
        number: from 0.
        seconds: since the video's beginning; None where a camera does not tell.
        image: upright RGB.
    """

    number: int
    seconds: float | None
    image: Image.Image


class Video:
    """The frames of a video file, or of a camera until it ends or nobody asks any more. Needs OpenCV.

    Args:
        source: a path, `camera:0` for the first camera, or the address of a stream that OpenCV reads (`rtsp://…`).

    Attributes:
        is_live: whether it is a camera or a stream, whose next frame may be waited for.
        count: how many frames the file says it has; None of what is live, or where it does not say.

    Raises:
        RuntimeMissing: OpenCV is not installed.
        DataError: the file or camera cannot be opened, or gives no frame.
    """

    def __init__(self, source: str) -> None:
        cv2 = _opencv()
        number = source.removeprefix(_CAMERA)
        is_camera = source.startswith(_CAMERA)
        self.is_live = is_camera or "://" in source
        if is_camera and not number.isdigit():
            raise DataError(f"{source}: no such camera", "camera:0 is the first one")
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
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # it tells of every way in which it could not open a file
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise RuntimeMissing(
            f"a video or a camera needs OpenCV, which {'is not installed' if isinstance(error, ModuleNotFoundError) else f'does not load: {error}'}",
            "install edgekit's wheel with the extra [video]",
        ) from error
    return cv2
