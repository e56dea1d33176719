"""The interface between the accuracy search and a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgekit.bundle import Variant
from edgekit.quantize.fidelity import Fidelity
from edgekit.quantize.quantizer import QuantizationConfig, Quantizer


class Backend(Protocol):
    """A runtime in the accuracy search: makes INT8 files for it, compares them and verifies them."""

    @property
    def target(self) -> str:
        """The target's name, used in the names of temporary folders and in messages."""

    @property
    def quantizer(self) -> Quantizer:
        """The quantizer that makes its graphs."""

    def groups(self) -> list[list[QuantizationConfig]]:
        """The configurations of the first strategy, in groups. The groups are tried in order; the best of each is verified."""

    def last(self, best: QuantizationConfig | None) -> QuantizationConfig | None:
        """The configuration to try after every other strategy failed; None if this runtime has none.

        Args:
            best: the best configuration so far; None if no file could be made.
        """

    def make(self, config: QuantizationConfig, folder: Path) -> Variant:
        """Write the files of a configuration into a folder; the variant is not verified yet.

        Raises:
            ExportError: the file cannot be made.
            RuntimeMissing: its converter is not installed.
        """

    def fidelity(self, variant: Variant, folder: Path) -> Fidelity | None:
        """Compare a variant in `folder` with the trained model on unlabeled images; None if it cannot run on this machine."""

    def verify(self, variant: Variant, folder: Path) -> Variant:
        """Run a variant on the evaluation set; return it with its figures and its status."""
