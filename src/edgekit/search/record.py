"""The record of a search: what was measured and trained, what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from edgekit.data.splits import Splits
from edgekit.result import Pruning, Search, SearchCandidate, SearchRound, SearchTrained, SearchVariant
from edgekit.search.budget import broken, excess
from edgekit.search.candidates import Candidate
from edgekit.search.measure import MeasuredBundle, MeasuredVariant
from edgekit.search.plan import SearchPlan
from edgekit.search.rounds import Scored, scored_on
from edgekit.shares import percent
from edgekit.text import counted


class Record:
    """What a search has found until now.

    Args:
        plan: of the search.
        device: its name.
        splits: the images at the recipe's resolution.
    """

    def __init__(self, plan: SearchPlan, device: str, splits: Splits) -> None:
        self.plan, self.device = plan, device
        self.measured: dict[str, MeasuredBundle] = {}
        self.trained: list[SearchTrained] = []
        self.seconds: dict[str, float] = {}
        self.full_epochs: int | None = None
        self.scored_on = scored_on(splits)
        self._rounds: dict[str, dict[int, Scored]] = {}
        self._left_out: dict[str, str] = {}
        self._winner: tuple[str, str] | None = None
        self.pruning: Pruning | None = None
        self._pruned: SearchCandidate | None = None

    @property
    def winner(self) -> str | None:
        """The name of the winner until now."""
        return self._winner[0] if self._winner else None

    def latency(self, name: str) -> float | None:
        """Return the median latency of a candidate's fastest variant within the budget, ms; None if there is none."""
        found = self.measured[name].within(self.plan.limits) if name in self.measured else []
        return found[0].p50 if found else None

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Note why candidates are not trained further."""
        self._left_out |= reasons

    def add_round(self, name: str, epochs: int, scored: Scored) -> None:
        """Add a short training."""
        self._rounds.setdefault(name, {})[epochs] = scored

    def scores(self, epochs: int, names: Sequence[str]) -> dict[str, Scored]:
        """Return the short trainings of a round."""
        return {name: self._rounds[name][epochs] for name in names}

    def rank(self, best: Sequence[str], kept: Sequence[str], epochs: int) -> None:
        """Note who is left out after a round.

        Args:
            best: the candidates of the round that did not fail, the best first.
            kept: those that go on.
            epochs: of the round.
        """
        for name, rounds in self._rounds.items():
            if epochs in rounds and name not in kept:
                scored = rounds[epochs]
                if scored.error:
                    self._left_out[name] = f"its training failed: {scored.error}"
                else:
                    place = best.index(name) + 1
                    after = counted(epochs, "epoch")
                    self._left_out[name] = (
                        f"place {place} of {len(best)} after {after} ({percent(scored.score or 0.0)}); {len(kept)} were kept"
                    )

    def win(self, name: str, recipe: str) -> None:
        """Note the winner and the file of its recipe."""
        self._winner = name, recipe
        for trained in self.trained:
            if trained.candidate != name:
                reasons = "; ".join(f"{v.id}: {', '.join(v.outside)}" for v in trained.variants)
                self._left_out[trained.candidate] = f"trained in full, but then outside the budget: {reasons}"
        for other, rounds in self._rounds.items():
            if other not in self._left_out and other != name:
                epochs = max(rounds)
                self._left_out[other] = (
                    f"behind the winner after {counted(epochs, 'epoch')} ({percent(rounds[epochs].score or 0.0)})"
                )

    def prune(
        self, pruning: Pruning, candidate: SearchCandidate | None, trained: SearchTrained | None, recipe: str
    ) -> None:
        """Note what came of pruning a larger network.

        Args:
            pruning: the record.
            candidate: the pruned network; None if there is none.
            trained: its full training, likewise.
            recipe: the file of the winner's recipe.
        """
        self.pruning, self._pruned = pruning, candidate
        if trained is not None:
            self.trained.append(trained)
        if pruning.kept and candidate is not None:
            if self._winner is not None:
                self._left_out[self._winner[0]] = f"the winner before pruning: {pruning.outcome}"
            self._winner = candidate.name, recipe

    def nearest(self) -> str:
        """Return the variant that comes nearest to the budget, with its numbers; empty if nothing was measured."""
        found: list[tuple[float, str, MeasuredVariant]] = []
        for name, measured in self.measured.items():
            for variant in measured.variants:
                if not variant.error and variant.p50 is not None:
                    found.append((excess(self.plan.limits, variant.values()), name, variant))
                elif not variant.error:  # too large to be measured
                    sizes = [limit for limit in self.plan.limits if limit.metric == "size"]
                    found.append((excess(sizes, variant.values()) if sizes else float("inf"), name, variant))
        if not found:
            return ""
        _, name, variant = min(found, key=lambda one: one[0])
        known = {key: value for key, value in variant.values().items() if value is not None}
        limits = [limit for limit in self.plan.limits if limit.metric in known]
        return f"{name}, {variant.id}: {', '.join(broken(limits, known))}"

    def search(self) -> Search:
        """Return the results so far."""
        candidates = [self._candidate(candidate) for candidate in self.plan.candidates]
        candidates += [self._pruned] if self._pruned is not None else []
        rounds = [scored.seconds for by_epochs in self._rounds.values() for scored in by_epochs.values()]
        seconds = {
            "measure": sum(measured.seconds for measured in self.measured.values()),
            "teacher": self.seconds.get("teacher", 0.0),
            "rounds": sum(rounds),
            "full": sum(trained.seconds for trained in self.trained),
        }
        if self.pruning is not None:  # whose full training is a part of it
            seconds["pruning"] = self.pruning.seconds
            seconds["full"] -= sum(t.seconds for t in self.trained if t.candidate == self.pruning.name)
        complete = len(self.measured) == len(self.plan.candidates)
        nothing = complete and all(self.latency(c.name) is None for c in self.plan.candidates)
        winner, recipe = self._winner or (None, None)
        return Search(
            recipe=self.plan.recipe.name,
            device=self.device,
            device_machine=next((m.machine for m in self.measured.values() if m.machine), ""),
            threads=self.plan.threads,
            budgets=[str(limit) for limit in self.plan.limits],
            candidates=candidates,
            scored_on=self.scored_on,
            full_epochs=self.full_epochs,
            trained=list(self.trained),
            winner=winner,
            winner_recipe=recipe,
            pruning=self.pruning,
            nearest=self.nearest() if nothing and winner is None else "",
            seconds={phase: round(spent, 1) for phase, spent in seconds.items()},
        )

    def _candidate(self, candidate: Candidate) -> SearchCandidate:
        measured = self.measured.get(candidate.name)
        variants = [self._variant(v) for v in measured.variants] if measured else []
        rounds = [
            SearchRound(
                epochs=epochs,
                score=scored.score,
                images=scored.images,
                seconds=round(scored.seconds, 1),
                error=scored.error,
            )
            for epochs, scored in sorted(self._rounds.get(candidate.name, {}).items())
        ]
        left_out = self._left_out.get(candidate.name, "")
        if measured and not left_out and self.latency(candidate.name) is None:
            left_out = "cannot be measured" if measured.error else f"outside the budget: {self._nearest_of(measured)}"
        return SearchCandidate(
            name=candidate.name,
            student=candidate.student(),
            image_size=candidate.image_size,
            variants=variants,
            rounds=rounds,
            error=measured.error if measured else "",
            left_out=left_out,
        )

    def _variant(self, variant: MeasuredVariant) -> SearchVariant:
        outside = [] if variant.error else broken(self.plan.limits, self._known(variant))
        return SearchVariant(**asdict(variant), outside=outside)

    def _known(self, variant: MeasuredVariant) -> dict[str, float | None]:
        """The values of a variant; one that was not measured because of its size breaks that limit alone."""
        values = variant.values()
        if variant.p50 is not None or variant.error:
            return values
        sizes = [limit for limit in self.plan.limits if limit.metric == "size"]
        if broken(sizes, values):
            return {**{limit.metric: 0.0 for limit in self.plan.limits}, "size": float(variant.bytes)}
        return values

    def _nearest_of(self, measured: MeasuredBundle) -> str:
        usable = [v for v in measured.variants if not v.error]
        if not usable:
            return "; ".join(f"{v.id}: {v.error}" for v in measured.variants)
        best = min(usable, key=lambda v: excess(self.plan.limits, self._known(v)))
        return f"{best.id}: {', '.join(broken(self.plan.limits, self._known(best)))}"
