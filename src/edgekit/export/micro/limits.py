"""What a board must have for a model, and whether it does."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgekit.board import BoardNeeds
from edgekit.bundle import Variant
from edgekit.errors import ExportError
from edgekit.export.litert.flatbuffer import schema
from edgekit.export.micro.rules import METHODS
from edgekit.runtimes import open_session
from edgekit.sizes import ImageSize, SizeLike
from edgekit.targets import TFLITE_MICRO
from edgekit.tasks import Task

if TYPE_CHECKING:
    from edgekit.export.micro.students import Student

Smaller = Callable[[int], tuple[SizeLike, int] | None]  # bytes of RAM -> a resolution and its arena
Narrower = Callable[[int, int | None], "Student | None"]  # bytes of flash, bytes of RAM -> a student
_Size = TypeVar("_Size")
_GRID = 16  # pixels: the resolutions that are estimated
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KM]?)i?B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1024, "M": 1024**2}


def parse_size(text: str | int, option: str) -> int:
    """Bytes from `256K`, `1M` or a number; a K is 1,024 bytes.

    Raises:
        ExportError: it is none of these, or is not positive.
    """
    found = _SIZE.fullmatch(str(text).strip())
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size <= 0:
        raise ExportError(f"{option} {text}: not a size", "give bytes, or kilobytes or megabytes such as 256K or 1M")
    return size


@dataclass(frozen=True)
class Limits:
    """The memory of a board.

    Attributes:
        ram: bytes for the arena; None: any.
        flash: bytes for the model; None: any.
    """

    ram: int | None = None
    flash: int | None = None

    def faults(
        self, needs: BoardNeeds, image_size: SizeLike, smaller: Smaller | None = None, narrower: Narrower | None = None
    ) -> list[str]:
        """What exceeds, a clause each. Of a model that was compiled for an NPU, it is the compiled file that must fit.

        Args:
            needs: of the model.
            image_size: size of its images, in pixels.
            smaller: gives the largest resolution whose arena fits so many bytes, measured, with its arena, and None where none does; raises
                ValueError where it cannot be measured. Without it, the resolution is estimated.
            narrower: gives the widest student that fits so many bytes of flash and of RAM, measured, and None where none does; raises
                ValueError where it cannot be measured. Without it, the share of weights that would fit is estimated.
        """
        found = []
        arena, stored, what = needs.arena_bytes or 0, needs.model_bytes or 0, ""
        if (npu := needs.npu) is not None and npu.arena_bytes and npu.file_bytes:
            arena, stored, what = npu.arena_bytes, npu.file_bytes, f", compiled for {npu.accelerator},"
        if self.ram is not None and arena > self.ram:
            # What the compiler needs at another resolution is unknown.
            advice = _fitting(needs, self.ram, ImageSize.of(image_size), None if what else smaller)
            found.append(
                f"its arena of {arena:,} bytes{what} exceeds --max-ram {self.ram:,} by {arena - self.ram:,} ({advice})"
            )
        if self.flash is not None and stored > self.flash:
            advice = self._narrower(self.flash, stored, None if what else narrower)
            found.append(
                f"its file of {stored:,} bytes{what} exceeds --max-flash {self.flash:,} by {stored - self.flash:,} ({advice})"
            )
        return found

    def _narrower(self, flash: int, stored: int, narrower: Narrower | None) -> str:
        """Which student fits: measured, or estimated as if a file were weights alone."""
        if narrower is not None:
            with contextlib.suppress(ValueError):
                if (found := narrower(flash, self.ram)) is None:
                    return "no width of this student fits: take one with fewer layers or another family"
                arena = f" and arena of {found.needs.arena_bytes:,}" if self.ram is not None else ""
                return (
                    f"the student {found.name} of width {found.width:g} fits: file of {found.needs.model_bytes:,} bytes{arena}, "
                    "measured untrained; its accuracy is not known"
                )
        return f"estimate: a student with {flash / stored:.0%} of the weights would fit; the resolution changes nothing"

    def judge(
        self, variant: Variant, image_size: SizeLike, smaller: Smaller | None = None, narrower: Narrower | None = None
    ) -> Variant:
        """The variant, rejected where it does not fit (see `faults`)."""
        assert variant.board is not None
        faults = self.faults(variant.board, image_size, smaller, narrower)
        if not faults:
            return variant
        board = variant.board.model_copy(update={"exceeds": faults})
        return variant.model_copy(update={"status": "rejected", "board": board}).noted(
            f"rejected: {' and '.join(faults)}"
        )


def _fitting(needs: BoardNeeds, ram: int, image_size: ImageSize, smaller: Smaller | None) -> str:
    """Which resolution fits: measured, or estimated as if activations grew with the number of pixels."""
    room = ram - (needs.persistent_bytes or 0)
    if room <= 0 or not needs.activation_bytes:
        return "no resolution would fit: take a student with fewer layers"
    if smaller is not None:
        with contextlib.suppress(ValueError):
            if (found := smaller(ram)) is None:
                return "no smaller resolution fits: take a smaller student"
            fitting = ImageSize.of(found[0]).option
            return f"--image-size {fitting} fits: arena of {found[1]:,} bytes, measured; its accuracy is not known"
    side = int(image_size.shorter * math.sqrt(room / needs.activation_bytes)) // _GRID * _GRID
    if side < 2 * _GRID:
        return "take a smaller student"
    return f"estimate: --image-size {image_size.with_shorter(side).option} would fit"


def measure(path: Path, task: Task) -> BoardNeeds:
    """What a board needs for a file: its memory, as TFLite Micro's own allocator counts it, and its operators."""
    from edgekit.runtimes.micro import MicroSession

    session = open_session(TFLITE_MICRO.name, path, task=task)
    assert isinstance(session, MicroSession)
    arena = session.arena()
    session.close()
    return BoardNeeds(
        arena_bytes=arena.total,
        activation_bytes=arena.head,
        persistent_bytes=arena.tail,
        model_bytes=path.stat().st_size,
        operators=operators(path),
        measured_by=f"tflite-micro {session.version}",
    )


def operators(path: Path) -> list[str]:
    """The methods of `MicroMutableOpResolver` that register a file's operators, each once."""
    fb = schema()
    model = fb.ModelT.InitFromPackedBuf(path.read_bytes())
    kinds = {value: name for name, value in vars(fb.BuiltinOperator).items() if isinstance(value, int)}
    known = {**METHODS, "CUSTOM": "AddEthosU"}  # what Vela makes of the operators that it compiles, its only custom one
    return sorted({known[kinds[code.builtinCode]] for code in model.operatorCodes})


def largest_that(fits: Callable[[_Size], bool], sizes: Sequence[_Size]) -> _Size | None:
    """The largest of ascending sizes that fits, if every smaller one fits, too; None where none does. Only some of them are tried."""
    found: _Size | None = None
    low, high = 0, len(sizes) - 1
    while low <= high:
        middle = (low + high) // 2
        if fits(sizes[middle]):
            found, low = sizes[middle], middle + 1
        else:
            high = middle - 1
    return found
