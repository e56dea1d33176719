"""What the ladder must know of a runtime to climb for it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgekit.bundle import Variant
from edgekit.quantize.fidelity import Fidelity
from edgekit.quantize.quantizer import QuantizationConfig, Quantizer


class Backend(Protocol):
    """A runtime's INT8: how its files are made, compared and judged."""

    @property
    def target(self) -> str:
        """Names its files on the way."""

    @property
    def quantizer(self) -> Quantizer:
        """That quantizes for it."""

    def groups(self) -> list[list[QuantizationConfig]]:
        """What the first rung tries: groups in order, the most faithful of each being held against the gate."""

    def last(self, best: QuantizationConfig | None) -> QuantizationConfig | None:
        """What is left to try when every rung failed, from the most faithful way until then; None: nothing."""

    def make(self, config: QuantizationConfig, folder: Path) -> Variant:
        """Write a way's files into a folder; the variant is not verified yet.

        Raises:
            ExportError: it cannot be made.
            RuntimeMissing: its converter is not installed.
        """

    def fidelity(self, variant: Variant, folder: Path) -> Fidelity | None:
        """Of a variant whose files are in a folder, on images without labels; None where nothing here can run it."""

    def verify(self, variant: Variant, folder: Path) -> Variant:
        """A variant with what the evaluation set says of it."""
