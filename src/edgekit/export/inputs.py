"""What the variants of an export are made from, and what the user chose about them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit.bundle import Precision
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs
from edgekit.quantize.budget import SEARCH_MINUTES, Budget
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.quantizer import Quantizer
from edgekit.runtimes.tensorrt.options import COMPUTE_CAPABILITIES
from edgekit.targets import Target, every

T = TypeVar("T")


@dataclass(frozen=True)
class ExportOptions:
    """What a user may choose about how variants are made. All of it is part of what a variant is known by.

    Attributes:
        max_drop: the largest loss of accuracy that passes, in percentage points.
        min_agreement: the smallest share of the evaluation set on which a variant must decide as the trained model does.
        recover: whether INT8 that loses too much is distilled (see `recover`).
        compute_capabilities: of the GPUs that trt-rtx builds for.
        search_minutes: how long INT8 that keeps the accuracy is searched for, all variants together (see `budget`).
    """

    max_drop: float = 1.0
    min_agreement: float = 0.0
    recover: bool = False
    compute_capabilities: tuple[str, ...] = COMPUTE_CAPABILITIES
    search_minutes: float = SEARCH_MINUTES

    @property
    def bounds(self) -> AccuracyBounds:
        """What passes."""
        return AccuracyBounds(self.max_drop, self.min_agreement)

    def of(self, target: Target, precision: Precision) -> dict[str, Any]:
        """Those that a variant depends on, for its digest."""
        chosen = asdict(self)
        del chosen["search_minutes"]  # what a search finds in time does not depend on how long it might have taken
        if precision != "int8":
            del chosen["recover"]
        of_others = {option for other in every().values() for option in other.options} - set(target.options)
        return {option: value for option, value in chosen.items() if option not in of_others}


class Shared:
    """What is made once and used by several variants of a process. It is known by its type, and by a key where there are several of it."""

    def __init__(self) -> None:
        self._made: dict[tuple[type, Hashable], object] = {}

    def once(self, kind: type[T], make: Callable[[], T], key: Hashable = None) -> T:
        """The object of that type and key; made where there is none yet."""
        found = self._made.get((kind, key))
        if not isinstance(found, kind):
            found = make()
            self._made[kind, key] = found
        return found


@dataclass
class Sources:
    """What a variant is made from and held against.

    Attributes:
        float_onnx: the float graph, its batch axis free, weights inside.
        calibration: images without labels, and the ranges that they give the activations.
        reference: what the trained model says.
        options: the user's.
        folder: where the variant's files go; empty, the variant's alone.
        scratch: for what is made on the way; of this process alone.
        model: the trained network, from pixels to its outputs, as torch; None where the model came as ONNX.
        batch: the batch size that the bundle's graphs are to have; None leaves it free. Whoever makes ONNX or OpenVINO files
            makes them with a free batch axis all the same: `make` fixes it in whatever was made.
        unlabeled: more images without labels than the calibration's, uint8 (n, s, s, 3), to compare and to distill on; None: those.
        shared: of this process alone: what is made once and used by several variants.
        searches: how many INT8 variants this export makes, which divide the minutes of the search evenly.

    Nothing here may measure speed: other variants may be being made beside this one.
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
        """The time of one INT8 variant's search, from now: an equal share of all."""
        return Budget(60 * self.options.search_minutes / max(1, self.searches), self.options.search_minutes)

    @property
    def quantizer(self) -> Quantizer:
        """That quantizes: one for all variants of this process."""
        return self.shared.once(
            Quantizer,
            lambda: Quantizer(self.calibration, self.scratch, self.unlabeled, self.model, self.reference.task),
        )
