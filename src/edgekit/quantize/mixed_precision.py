"""Mixed precision: find the fewest layers that must stay in float so that INT8 keeps the accuracy, within the time limit.

Blocks of layers come first (see `blocks`): each block is left in float in turn and compared without labels, then the fewest of the most
sensitive blocks that pass are taken. The same is repeated with the layers of these blocks. Once one set of blocks has passed there is a
result, so the search can stop at any step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.progress import progress, say
from edgekit.quantize.blocks import blocks
from edgekit.quantize.budget import Budget
from edgekit.quantize.fidelity import Fidelity
from edgekit.quantize.sensitivity import Exclude, LayerSensitivity, fewest, max_trials, sensitivity

_MEASURING = 0.5  # share of the remaining time for measuring; the rest is for trying sets of layers


@dataclass(frozen=True)
class InFloat:
    """The result of the search.

    Attributes:
        chosen: the layers that stay in float, in the order of the graph; None if no tried set was enough.
        layers: the sensitivity of each measured layer, the most sensitive first.
        blocks: the same for blocks; empty if every layer was measured on its own.
        total: number of layers to choose from.
    """

    chosen: tuple[str, ...] | None
    layers: list[LayerSensitivity] = field(default_factory=list)
    blocks: list[LayerSensitivity] = field(default_factory=list)
    total: int = 0


class Search:
    """A search for the fewest layers in float.

    Args:
        title: shown with the progress.
        layers: the layers to choose from (see `sensitivity.quantizable`).
        measure: returns the fidelity with the given nodes in float, on unlabeled images.
        passes: returns whether a file with the given layers in float keeps the accuracy.
        budget: the time limit of the whole accuracy search.
    """

    def __init__(
        self,
        title: str,
        layers: Mapping[str, tuple[str, Exclude]],
        measure: Callable[[Exclude], Fidelity],
        passes: Callable[[tuple[str, ...]], bool],
        budget: Budget,
    ) -> None:
        self.title, self.layers, self.measure, self.budget = title, layers, measure, budget
        self._passes = passes
        self._tried: dict[frozenset[str], bool] = {}

    def run(self) -> InFloat:
        """Find the fewest layers, or the best set within the time limit."""
        groups = blocks(list(self.layers))
        single = all(len(group) == 1 for group in groups)
        with progress(f"{self.title} sensitivity", 1, unit="measurement") as advance:
            quantized = self.measure(())
            advance()
        ranked = self._ranked(groups, quantized, "layers" if single else "blocks")
        chosen = self._fewest(self._worthwhile(ranked))
        if single:
            return InFloat(chosen, ranked, [], len(self.layers))
        inner: list[LayerSensitivity] = []
        if chosen is not None and len(chosen) > 1:
            inner = self._ranked([(name,) for name in chosen], quantized, "layers")
            measured = [s.members for s in inner]
            order = [*measured, *((name,) for name in chosen if (name,) not in measured)]
            chosen = self._fewest(order) or chosen
        return InFloat(chosen, inner, ranked, len(self.layers))

    def _ranked(self, groups: Sequence[tuple[str, ...]], quantized: Fidelity, unit: str) -> list[LayerSensitivity]:
        with progress(f"{self.title} sensitivity", len(groups), unit=unit) as advance:

            def report(steps: int = 1, note: str = "") -> None:
                advance(steps, "; ".join(part for part in (note, str(self.budget)) if part))

            return sensitivity(self.layers, groups, quantized, self.measure, report, self.budget.share(_MEASURING))

    def _worthwhile(self, ranked: list[LayerSensitivity]) -> list[tuple[str, ...]]:
        """Blocks with a positive gain, up to half of all layers, but at least one block."""
        order: list[tuple[str, ...]] = []
        count = 0
        for block in ranked:
            count += len(block.members)
            if block.gain_db <= 0 or (order and count > len(self.layers) // 2):
                break
            order.append(block.members)
        return order

    def _fewest(self, order: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
        """The fewest layers, taken from blocks in this order, that pass; in the order of the graph."""
        if not order:
            return None
        limit, trials = max_trials(len(order)), 0

        def passes(chosen: tuple[tuple[str, ...], ...]) -> bool:
            nonlocal trials
            trials += 1
            names = self._in_order(chosen)
            key = frozenset(names)
            if key not in self._tried:
                remaining = f"; {self.budget}" if str(self.budget) else ""
                say(
                    f"{self.title}: {len(names)} of {len(self.layers)} layers in float, try {trials} of at most {limit}{remaining}"
                )
                self._tried[key] = self._passes(names)
            return self._tried[key]

        found = fewest(list(order), passes, self.budget.over)
        return self._in_order(found) if found is not None else None

    def _in_order(self, chosen: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        wanted = {name for block in chosen for name in block}
        return tuple(name for name in self.layers if name in wanted)
