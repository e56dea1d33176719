"""Which layers stay in float so that INT8 keeps the accuracy: as few as possible, found within the time that there is.

Blocks of layers first (see `blocks`): each is left in float alone, without labels; the fewest of the most sensitive that pass are taken; then
the same with the layers of these blocks alone. From the first block that passes on there is always something to deliver, so the search may be
cut at any step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.progress import progress, say
from edgekit.quantize.blocks import blocks
from edgekit.quantize.budget import Budget
from edgekit.quantize.fidelity import Fidelity
from edgekit.quantize.sensitivity import Exclude, LayerSensitivity, fewest, max_trials, sensitivity

_MEASURING = 0.5  # of the time that is left may go into measuring; the rest is for trying what it found


@dataclass(frozen=True)
class InFloat:
    """What the search found.

    Attributes:
        chosen: the layers that stay in float, in the order of the graph; None where none that were tried suffice.
        layers: what leaving each layer in float brings, of those that were measured; the most sensitive first.
        blocks: the same of the blocks; empty where every layer was measured by itself.
        total: how many layers there are to choose from.
    """

    chosen: tuple[str, ...] | None
    layers: list[LayerSensitivity] = field(default_factory=list)
    blocks: list[LayerSensitivity] = field(default_factory=list)
    total: int = 0


class Search:
    """One search for the fewest layers in float.

    Args:
        title: whose it is, shown with the progress.
        layers: those to choose from (see `sensitivity.quantizable`).
        measure: the fidelity with some nodes left in float, on images without labels.
        passes: whether a file with some layers in float keeps the accuracy.
        budget: the time of the whole climb.
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
        """Find the fewest layers, or what the time allows."""
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
        """Blocks that bring something, up to half of all layers, but one at least."""
        order: list[tuple[str, ...]] = []
        count = 0
        for block in ranked:
            count += len(block.members)
            if block.gain_db <= 0 or (order and count > len(self.layers) // 2):
                break
            order.append(block.members)
        return order

    def _fewest(self, order: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
        """The fewest layers of an order of blocks that pass, in the order of the graph."""
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
