"""Open image files within limits: on their size, on the pixels decoded at the same time, and on the file extensions."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edgekit.errors import DataError
from edgekit.foreign import Unreadable, open_regular
from edgekit.pixel_range import REDUCED, SOURCE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    # One image; see `as_image`.
    ImageInput: TypeAlias = Path | str | bytes | Image.Image | NDArray[np.uint8]

MAX_PIXELS = 100_000_000  # 4 bytes per pixel in Pillow, and as much again for the results
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values for images that are stored on their side
_WITH_EXIF = {"JPEG", "MPO", "TIFF", "WEBP"}
HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")

# Formats that Pillow recognizes but cannot decode: containers of other libraries, video, PostScript, metafiles.
_NOT_DECODED = {".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".ps", ".wmf"}
_ON_ITS_SIDE = {5, 6, 7, 8}  # EXIF orientations with width and height exchanged
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


@cache
def extensions() -> frozenset[str]:
    """Return the file extensions (lower case, with the dot) of the formats that can be decoded."""
    from PIL import Image

    _register_heif()
    registered = Image.registered_extensions()
    return frozenset(e.lower() for e, kind in registered.items() if kind in Image.OPEN) - _NOT_DECODED


@cache
def _register_heif() -> bool:
    """Let Pillow read HEIC if pillow-heif is installed; return whether it is."""
    try:
        from pillow_heif import register_heif_opener
    except Exception:  # not installed, or its libraries do not load: reported when such a file is read
        return False
    register_heif_opener()
    return True


def as_image(source: ImageInput, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return one image, given in any form, as an upright PIL image in its own mode.

    Args:
        source: a path; the bytes of an encoded image; a PIL image, whose EXIF orientation is applied; or a NumPy array of RGB pixels,
            uint8 (height, width, 3), which is used as it is.
        max_pixels: the largest number of pixels that is decoded.

    Raises:
        DataError: it is none of these, or cannot be read.
    """
    if isinstance(source, (str, bytes, Path)):
        return open_image(source, max_pixels)
    from PIL import Image

    if isinstance(source, Image.Image):
        return _upright(source)
    if (problem := _not_pixels(source)) is not None:
        raise problem
    return Image.fromarray(source)


def _upright(image: Image.Image) -> Image.Image:
    """Return a PIL image, decoded and upright; the image of the caller is not rotated."""
    from PIL import ImageOps

    try:
        image.load()
        return ImageOps.exif_transpose(image) if _is_turned(image) else image
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, … on bad files
        name = getattr(image, "filename", "") or "a PIL image"
        raise DataError(f"{name}: cannot be decoded: {error or type(error).__name__}") from error


def _is_turned(image: Image.Image) -> bool:
    """Return whether EXIF says that the picture is stored rotated or mirrored (tag 0x0112 is not 1)."""
    return image.getexif().get(_ORIENTATION, 1) != 1


def _not_pixels(source: Any) -> DataError | None:
    """Return why something is not an array of RGB pixels, or None if it is one. The message never shows its content."""
    import numpy as np

    if not isinstance(source, np.ndarray):
        return DataError(
            f"an image must be a path, bytes, a PIL image or a NumPy array, not {type(source).__name__}",
            "convert it to a NumPy array of uint8 RGB pixels (height, width, 3)",
        )
    shape, dtype = source.shape, source.dtype
    if dtype == np.uint8 and len(shape) == 3 and shape[2] == 3 and 0 not in shape:
        return None
    if 0 in shape:
        hint = "pass an array with at least one pixel"
    elif dtype != np.uint8:
        hint = "scale the values to 0 … 255 and convert them: pixels.round().astype(np.uint8)"
    elif len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        hint = "repeat the gray channel: np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)"
    elif len(shape) == 3 and shape[2] == 4:
        hint = "leave the alpha channel out: pixels[..., :3]"
    elif len(shape) == 3 and shape[0] == 3:
        hint = "put the channels last: pixels.transpose(1, 2, 0)"
    else:
        hint = "pass one image, or a list of images"
    listed = ", ".join(map(str, shape))
    return DataError(f"an array must be one image of uint8 RGB pixels (height, width, 3), not {dtype} ({listed})", hint)


def open_image(source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open any image that Pillow reads: upright by its EXIF orientation, in its own mode; of an animation, the first frame.

    The number of pixels is read from the header, before anything is decoded. A JPEG with more than 100 million pixels (or more than
    `max_pixels`, if that is less) is decoded at 1/2, 1/4 or 1/8 of its size, which takes a fraction of the memory.

    Args:
        source: a path, or the bytes of an encoded image.
        max_pixels: the largest number of pixels that is decoded.

    Raises:
        DataError: the file is missing, is not an image, is truncated, or has too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not isinstance(source, (str, bytes, Path)):  # its value would print every pixel of an array
        raise DataError(f"an image file must be a path or bytes, not {type(source).__name__}", "give its path")
    name = "<bytes>" if isinstance(source, bytes) else str(source)
    _register_heif()
    try:
        with _opened(source) as image:
            stored = f"{image.width} x {image.height}"
            scale = _reduce(image, max_pixels)
            pixels = image.width * image.height
            if pixels > max_pixels:
                at = f", at 1/{scale} of its size {image.width} x {image.height}," if scale > 1 else ""
                raise DataError(
                    f"too many pixels: {stored}{at} is over the limit of {max_pixels:,}",
                    "raise the limit with data.max_pixels in the recipe or with --max-pixels, or make the image smaller",
                    where=name,
                )
            reduced = _is_reduced(image)
            with _room(pixels), _without_pillows_limit(pixels):
                image.load()
                ImageOps.exif_transpose(image, in_place=True)  # a copy would take the memory of another image
            image.info[SOURCE] = name
            if reduced:
                image.info[REDUCED] = True
            return image
    except DataError:
        raise
    except Unreadable as error:
        is_folder = isinstance(error.__cause__, IsADirectoryError)
        raise DataError("is a folder, not an image" if is_folder else error.detail, where=name) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"too many pixels to be decoded safely ({error})", where=name) from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, … on bad files
        unknown = isinstance(error, UnidentifiedImageError)
        if unknown and _is_heif(source):
            raise DataError(
                "HEIC needs pillow-heif", "install edgekit's wheel with the extra [heic]", where=name
            ) from error
        reason = "not an image that Pillow can read" if unknown else str(error)
        raise DataError(reason or type(error).__name__, where=name) from error


@contextmanager
def _opened(source: Path | str | bytes) -> Iterator[Image.Image]:
    from PIL import Image

    with ExitStack() as stack:
        stream = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(open_regular(source))
        with _without_pillows_limit():
            image = Image.open(stream)
        yield stack.enter_context(image)


def image_header(path: Path) -> tuple[str, tuple[int, int]]:
    """Return Pillow's mode, and width and height of the upright image, from the header of a file.

    Raises what Pillow raises, or `Unreadable`.
    """
    _register_heif()
    with _opened(path) as image:
        # Of other formats (PNG), Pillow would decode the whole image to look for EXIF; photographs are in these.
        lies = image.format in _WITH_EXIF and image.getexif().get(_ORIENTATION) in _LYING
        return image.mode, image.size[::-1] if lies else image.size


def upright_size(path: Path) -> tuple[int, int]:
    """Return the width and height that a file has once it is turned upright, from its header.

    Raises:
        DataError: the file is missing, or is not an image.
    """
    from PIL import UnidentifiedImageError

    try:
        _register_heif()
        with _opened(path) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(0x0112, 1) in _ON_ITS_SIDE else (width, height)
    except Unreadable as error:
        raise DataError(error.detail, where=path) from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, … on bad files
        unknown = isinstance(error, UnidentifiedImageError)
        raise DataError("not an image that Pillow can read" if unknown else str(error), where=path) from error


def _reduce(image: Image.Image, max_pixels: int) -> int:
    """Let libjpeg decode a large JPEG at a reduced size; return by what it is divided. The limit is never above 100 million, so that no
    option changes the pixels."""
    width, height = image.size
    if image.format not in {"JPEG", "MPO"}:
        return 1
    scale = 1
    while scale < 8 and -(-width // scale) * -(-height // scale) > min(max_pixels, MAX_PIXELS):
        scale *= 2
    if scale > 1:
        image.draft(None, (width // scale, height // scale))
    return scale


def _is_reduced(image: Image.Image) -> bool:
    """Return whether the file has 16 bits per color: Pillow has no such mode, and keeps the high bytes."""
    if image.mode not in {"RGB", "RGBA", "LA", "RGBX", "CMYK"}:
        return False
    for tile in getattr(image, "tile", []):
        options = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(option, str) and ";16" in option for option in options):
            return True
    return False


def _is_heif(source: Path | str | bytes) -> bool:
    try:
        if isinstance(source, bytes):
            start = source[:12]
        else:
            with open_regular(source) as stream:
                start = stream.read(12)
    except (OSError, Unreadable):
        return False
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


class _PillowsLimit:
    """Pillow's process-wide limit: it warns above 89 million pixels and refuses above 179 million. Our limit is per call."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.kept: int | None = None


_pillows_limit = _PillowsLimit()


@contextmanager
def _without_pillows_limit(pixels: int | None = None) -> Iterator[None]:
    """Disable Pillow's limit in this block if an image with this number of pixels (None: unknown) could exceed it."""
    from PIL import Image

    state = _pillows_limit
    if pixels is not None and pixels <= (Image.MAX_IMAGE_PIXELS or pixels):
        yield
        return
    with state.lock:
        if state.users == 0:
            state.kept = Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = None
        state.users += 1
    try:
        yield
    finally:
        with state.lock:
            state.users -= 1
            if state.users == 0:
                Image.MAX_IMAGE_PIXELS = state.kept


class _Mine(threading.local):
    """State of one thread: the depth of its `bounded_decoding` blocks, and the pixels that it holds."""

    depth = 0
    held = 0


class _Space:
    """The budget of decoded pixels that all threads share."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.in_use = 0
        self.mine = _Mine()

    def take(self, pixels: int) -> None:
        """Wait until the pixels fit. A thread that already holds some does not wait: two such threads would wait for each other."""
        with self.changed:
            self.changed.wait_for(lambda: self.mine.held > 0 or self.in_use == 0 or self.in_use + pixels <= MAX_PIXELS)
            self.in_use += pixels
            self.mine.held += pixels

    def give_back(self) -> None:
        """Release all pixels that this thread holds."""
        with self.changed:
            self.in_use -= self.mine.held
            self.mine.held = 0
            self.changed.notify_all()


_space = _Space()


@contextmanager
def bounded_decoding() -> Iterator[None]:
    """Bound the pixels of threads that each decode an image and shrink it: together at most `MAX_PIXELS`, or one larger image."""
    _space.mine.depth += 1
    try:
        yield
    finally:
        _space.mine.depth -= 1
        if _space.mine.depth == 0:
            _space.give_back()


@contextmanager
def _room(pixels: int) -> Iterator[None]:
    """Wait until an image with this number of pixels fits; inside `bounded_decoding`, it counts until the end of that block."""
    with bounded_decoding():
        _space.take(pixels)
        yield
