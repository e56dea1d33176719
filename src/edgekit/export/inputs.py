"""The inputs of an export: what variants are made from, and the user's options."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit.bundle import Precision
from edgekit.errors import check_range
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs
from edgekit.quantize.budget import SEARCH_MINUTES, Budget
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.quantizer import Quantizer
from edgekit.runtimes.tensorrt.options import COMPUTE_CAPABILITIES
from edgekit.targets import Target, every

T = TypeVar("T")


@dataclass(frozen=True)
class ExportOptions:
    """The user's options. A variant's digest includes them: with other options it is made again.

    Attributes:
        max_drop: the largest allowed loss of accuracy, in percentage points.
        min_agreement: the least share of the evaluation set on which a variant must predict the trained model's class.
        recover: whether INT8 that loses too much accuracy is distilled (see `quantize.recover`).
        compute_capabilities: the GPUs that trt-rtx builds for.
        search_minutes: time limit of the accuracy search, for all INT8 variants together (see `quantize.budget`).
        max_ram: the bytes of RAM that a microcontroller has for the arena of micro; None: any.
        max_flash: the bytes of flash that it has for the model; None: any.
        ethos_u: the Arm NPU that micro is also compiled for, for instance ethos-u55-128; empty: none.

    Raises:
        EdgekitError: a number is out of range.
    """

    max_drop: float = 1.0
    min_agreement: float = 0.0
    recover: bool = False
    compute_capabilities: tuple[str, ...] = COMPUTE_CAPABILITIES
    search_minutes: float = SEARCH_MINUTES
    max_ram: int | None = None
    max_flash: int | None = None
    ethos_u: str = ""

    def __post_init__(self) -> None:
        check_range("max_drop", self.max_drop, 0, 100)
        check_range("min_agreement", self.min_agreement, 0, 1)
        check_range("search_minutes", self.search_minutes, 0, math.inf)

    @property
    def bounds(self) -> AccuracyBounds:
        """The bounds that a variant must meet."""
        return AccuracyBounds(self.max_drop, self.min_agreement)

    def of(self, target: Target, precision: Precision) -> dict[str, Any]:
        """The options that a variant depends on, for its digest."""
        chosen = asdict(self)
        del chosen["search_minutes"]  # a search that was not cut does not depend on its limit
        if precision != "int8":
            del chosen["recover"]
        of_others = {option for other in every().values() for option in other.options} - set(target.options)
        return {option: value for option, value in chosen.items() if option not in of_others}


class Shared:
    """Objects that several variants of a process share. Each is found by its type, and by a key if there are several of that type."""

    def __init__(self) -> None:
        self._made: dict[tuple[type, Hashable], object] = {}

    def once(self, kind: type[T], make: Callable[[], T], key: Hashable = None) -> T:
        """Return the object of that type and key; `make` it if there is none yet."""
        found = self._made.get((kind, key))
        if not isinstance(found, kind):
            found = make()
            self._made[kind, key] = found
        return found


@dataclass
class Sources:
    """What a variant is made from and compared with.

    Attributes:
        float_onnx: the float graph, with a free batch axis and its weights inside.
        calibration: unlabeled images, and the distributions of the activations on them.
        reference: the trained model's outputs.
        options: the user's options.
        folder: destination of the variant's files; empty, and only for this variant.
        scratch: folder for temporary files, only for this process.
        model: the trained network, from pixels to its outputs, as torch; None where the model came as ONNX.
        batch: the batch size of the bundle's graphs; None: free. Makers of ONNX or OpenVINO files always write a free
            batch axis: `make` fixes it afterwards.
        unlabeled: images for comparison and distillation, uint8 (n, h, w, 3); None: the calibration images.
        shared: objects that the variants of this process share.
        searches: number of INT8 variants of this export; they share the minutes of the search evenly.

    Makers must not measure speed: other variants may be made at the same time.
    """

    float_onnx: Path
    calibration: Calibration
    reference: ReferenceOutputs
    options: ExportOptions
    folder: Path
    scratch: Path
    model: nn.Module | None = None
    batch: int | None = None
    unlabeled: NDArray[np.uint8] | None = None
    shared: Shared = field(default_factory=Shared)
    searches: int = 1

    @property
    def budget(self) -> Budget:
        """The time limit of one INT8 variant's search, counted from now: an equal share."""
        return Budget(60 * self.options.search_minutes / max(1, self.searches), self.options.search_minutes)

    @property
    def quantizer(self) -> Quantizer:
        """The quantizer, one for all variants of this process."""
        return self.shared.once(
            Quantizer,
            lambda: Quantizer(self.calibration, self.scratch, self.unlabeled, self.model, self.reference.task),
        )
