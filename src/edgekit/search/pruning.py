"""Prune a larger network to the budget, where the winner leaves much of it.

The larger network is distilled, loses channels in steps, is distilled after each, and is measured on the device each time. How many channels go is
found there, too: latency does not depend on the weights, so that a pruned network is exported and measured before it is trained. It is kept only
if it is more accurate than the winner, which fits the same budget, after as many epochs of distillation: of equal scores the winner stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.files import digest_of
from edgekit.models.classifier import Classifier
from edgekit.models.store import load_classifier
from edgekit.result import PrunedStep, Pruning, SearchCandidate, SearchTrained, SearchVariant
from edgekit.search.budget import Limit, broken, excess
from edgekit.search.candidates import Candidate
from edgekit.search.channel_pruning import MOST, NotPrunable, Pruned, check_prunable, pruned, write_student
from edgekit.search.devices import Device
from edgekit.search.full import train_in_full
from edgekit.search.measure import TURNS, MeasuredBundle, Turns, in_turns
from edgekit.search.plan import SearchPlan
from edgekit.search.rounds import Training
from edgekit.shares import percent, share_of
from edgekit.text import counted
from edgekit.train.stages.pipeline import Report

CLOSE = 0.9  # a winner that takes this share of a limit fits closely
STEPS = 2
_SHORT = 3  # the distillations before the last take one of so many parts of its epochs
_PROBES = 5  # halvings of the share of channels: to 2 % of them
_MARGIN = 0.98  # of a limit on time or energy, so that what is measured again after the training is within it, too


@dataclass(frozen=True)
class PruningOutcome:
    """What came of it.

    Attributes:
        pruning: the record.
        candidate: the pruned network; None if there is none.
        trained: its full training, likewise.
    """

    pruning: Pruning
    candidate: SearchCandidate | None = None
    trained: SearchTrained | None = None

    def content(self) -> dict[str, Any]:
        """Return the fields, for the storage."""
        parts = {"pruning": self.pruning, "candidate": self.candidate, "trained": self.trained}
        return {name: part and part.model_dump(mode="json") for name, part in parts.items()}

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> PruningOutcome:
        """Read the fields."""
        candidate, trained = content["candidate"], content["trained"]
        return cls(
            Pruning.model_validate(content["pruning"]),
            candidate and SearchCandidate.model_validate(candidate),
            trained and SearchTrained.model_validate(trained),
        )


@dataclass(frozen=True)
class _Probe:
    """A pruned network that was measured before its training."""

    share: float
    network: Pruned
    candidate: Candidate
    bundle: Bundle
    measured: MeasuredBundle


def larger_neighbors(
    candidates: Sequence[Candidate],
    measured: Mapping[str, MeasuredBundle],
    limits: Sequence[Limit],
    winner: Candidate | None,
) -> list[Candidate]:
    """Return the candidates outside the budget that may be pruned to it: the winner with more channels first, then the nearest to the budget.

    Args:
        candidates: of the search.
        measured: what was measured of them.
        limits: the budget.
        winner: gives resolution and family; None: there is none.
    """
    order: list[tuple[bool, float, Candidate]] = []
    for candidate in candidates:
        variants = [v for v in measured[candidate.name].variants if not v.error] if candidate.name in measured else []
        over = min((_excess(limits, v.values()) for v in variants), default=0.0)
        if over <= 1 or (winner is not None and candidate.image_size != winner.image_size):
            continue
        own = winner is not None and candidate.family == winner.family
        if own and winner is not None and candidate.architecture.width < winner.architecture.width:
            continue
        order.append((not own, over, candidate))
    return [candidate for _, _, candidate in sorted(order, key=lambda one: one[:2])]


def _excess(limits: Sequence[Limit], values: Mapping[str, float | None]) -> float:
    """Return the largest of the known values as a multiple of its limit; 0 if none is known."""
    known = [limit for limit in limits if values.get(limit.metric) is not None]
    return excess(known, values) if known else 0.0


def share_taken(limits: Sequence[Limit], trained: SearchTrained) -> float:
    """Return the share of the budget that the chosen variant of a full training takes: of the limit that it is nearest to."""
    variant = next(v for v in trained.variants if v.id == trained.variant)
    return _excess(limits, {**variant.percentiles_ms, "size": float(variant.bytes), "energy": variant.energy_mj})


class PruneToBudget:
    """Prunes a network to the budget of a search.

    Args:
        plan: of the search.
        training: its trainings.
        device: to measure on.
        alone: a context manager in which this process alone measures on the device.
        bundle_of: exports a candidate with random weights.
        scored_on: what the scores count, in words.
        on_stage: called after each stage of the full training.
        say: called with lines about the progress.
    """

    def __init__(
        self,
        plan: SearchPlan,
        training: Training,
        device: Device,
        alone: Callable[[], AbstractContextManager[object]],
        bundle_of: Callable[[Candidate], Bundle],
        scored_on: str,
        on_stage: Callable[[Report], None] = lambda report: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.plan, self.training, self.device, self.alone = plan, training, device, alone
        self.bundle_of, self.scored_on, self.on_stage, self.say = bundle_of, scored_on, on_stage, say
        self._limits = [
            limit if limit.metric == "size" else replace(limit, most=_MARGIN * limit.most) for limit in plan.limits
        ]

    def choose(self, neighbors: Sequence[Candidate]) -> tuple[Candidate | None, list[str]]:
        """Return the first network that can be pruned, and why those before it cannot; tried with random weights, before anything is trained."""
        skipped: list[str] = []
        for candidate in neighbors:
            try:
                check_prunable(candidate.architecture, candidate.image_size, self._classes(candidate))
            except EdgekitError as error:
                skipped.append(error.message)
            else:
                return candidate, skipped
        return None, skipped

    def run(
        self, larger: Candidate, winner: SearchTrained | None, of: Candidate | None, skipped: list[str]
    ) -> PruningOutcome:
        """Prune a network; what was complete before is not done again.

        Args:
            larger: the network.
            winner: the full training to beat; None: nothing else is within the budget.
            of: the winner's candidate.
            skipped: why others cannot be pruned.

        Raises:
            EdgekitError: an export or a measurement failed.
        """
        began = time.monotonic()
        base = {"candidate": larger.name, "against": of.name if of else None, "skipped": skipped}
        steps: list[PrunedStep] = []
        try:
            whole_score, probe, final = self._steps(larger, steps)
            trained = train_in_full(
                self.plan, final, self.training, self.device, self.alone, probe.bundle, self.on_stage
            )
            score, images = self._score(final)
            steps.append(self._step(probe, self._full_epochs(final), score, trained.seconds))
            in_all = self._full_epochs(larger) + sum(step.epochs for step in steps)
            against, against_epochs = (self._score(of)[0], self._full_epochs(of)) if of is not None else (None, None)
            fits = trained.variant is not None
            if fits and of is not None and against is not None and score > against:
                # Pruning distills for longer than the winner was; so what it is worth shows beside the winner after as many epochs.
                against, against_epochs = self._distilled(of, in_all)[1], in_all
        except NotPrunable as error:
            return PruningOutcome(Pruning(**base, steps=steps, outcome=error.message, seconds=_since(began)))
        kept = fits and (against is None or score > against)
        record = Pruning(
            **base,
            name=final.name,
            whole_score=whole_score,
            steps=steps,
            score=score,
            against_score=against,
            epochs=in_all,
            against_epochs=against_epochs,
            images=images,
            kept=kept,
            outcome="",
            seconds=_since(began),
        )
        record = record.model_copy(update={"outcome": self._outcome(record, trained, winner)})
        listed = SearchCandidate(
            name=final.name,
            student=final.student(),
            image_size=final.image_size,
            variants=steps[-1].variants,
            left_out="" if kept else record.outcome,
        )
        return PruningOutcome(record, listed, trained)

    def _steps(self, larger: Candidate, steps: list[PrunedStep]) -> tuple[float | None, _Probe, Candidate]:
        """Train the whole network, prune and distill it in all steps but the last, and prune it for the last."""
        full = self._full_epochs(larger)
        whole, score = self._distilled(larger, full)
        network = whole
        for number in range(1, STEPS + 1):
            found = self._fitting(larger, network, whole)
            if number < STEPS:  # an equal part of the way
                with self.alone(), self.device:
                    found = self._probe(larger, network, whole, found.share / (STEPS - number + 1)) or found
            path = self.training.folder / "pruned" / f"{found.candidate.name}.safetensors"
            data = self.plan.recipe.data
            student = write_student(found.network, larger.architecture, path, larger.image_size, (data.mean, data.std))
            candidate = replace(found.candidate, architecture=student)
            if number == STEPS:
                return score, found, candidate
            epochs = max(1, round(full / _SHORT))
            before = time.monotonic()
            network, reached = self._distilled(candidate, epochs)
            steps.append(self._step(found, epochs, reached, _since(before)))
            self.say(
                f"{candidate.name}: {percent(found.network.removed)} of the channels removed, {percent(reached)} after {counted(epochs, 'epoch')}"
            )
        raise AssertionError  # not reached

    def _distilled(self, candidate: Candidate, epochs: int) -> tuple[Classifier, float]:
        scored = self.training.short(candidate, epochs)
        if scored.error:
            raise NotPrunable(f"the training of {candidate.name} for {counted(epochs, 'epoch')} failed: {scored.error}")
        run = self.training.short_run(candidate, epochs)
        return load_classifier(run.stage_path("distill"), run.require("distill").outputs), scored.score or 0.0

    def _fitting(self, larger: Candidate, network: Classifier, whole: Classifier) -> _Probe:
        """Find the least share of the channels without which a network is within the budget, by halving."""
        with self.alone(), self.device:
            best = self._probe(larger, network, whole, MOST)
            if best is None or not best.measured.within(self._limits):
                raise NotPrunable(
                    f"{larger.name} does not fit with {percent(1 - MOST)} of its channels either: {self._why(best)}"
                )
            low = 0.0
            for _ in range(_PROBES):
                middle = (low + best.share) / 2
                found = self._probe(larger, network, whole, middle)
                if found is not None and found.measured.within(self._limits):
                    best = found
                else:
                    low = middle
        return best

    def _probe(self, larger: Candidate, network: Classifier, whole: Classifier, share: float) -> _Probe | None:
        """Prune, export and measure a network before its training; None if no channel goes. Files of an interrupted search are used again."""
        found = pruned(network, share, whole)
        if not found.channels:
            return None
        architecture = larger.architecture.model_copy(
            update={"channels": found.channels, "weights": None, "weights_key": None}
        )
        label = f"{larger.name}-pruned-{digest_of(found.channels)[:8]}"
        candidate = Candidate(architecture, larger.image_size, label)
        bundle = self.bundle_of(candidate)
        turns = Turns(
            bundle,
            bundle.path.parent / "turns",
            self.device,
            self.plan.limits,
            self.plan.turn_seconds,
            self.plan.threads,
        )
        in_turns([turns], further=TURNS)
        return _Probe(share, found, candidate, bundle, turns.result())

    def _why(self, probe: _Probe | None) -> str:
        usable = [v for v in probe.measured.variants if not v.error] if probe is not None else []
        if not usable:
            return probe.measured.error if probe is not None and probe.measured.error else "nothing could be measured"
        best = min(usable, key=lambda v: _excess(self._limits, v.values()))
        return f"{best.id}: {', '.join(broken(self._limits, best.values()))}"

    def _step(self, probe: _Probe, epochs: int, score: float, seconds: float) -> PrunedStep:
        variants = [
            SearchVariant(**asdict(v), outside=[] if v.error else broken(self.plan.limits, v.values()))
            for v in probe.measured.variants
        ]
        found = probe.network
        return PrunedStep(
            removed=round(found.removed, 4), parameters=found.parameters, epochs=epochs, score=score, variants=variants, seconds=seconds
        )  # fmt: skip

    def _score(self, candidate: Candidate) -> tuple[float, int]:
        """Return the score of a candidate that was trained in full; trained here once more if another machine has its run."""
        run = self.training.full_run(candidate)
        if run.record("distill") is None:
            epochs = self._full_epochs(candidate)
            self._distilled(candidate, epochs)
            run = self.training.short_run(candidate, epochs)
        record = run.require("distill")
        right, images = self.training.score(candidate, run.stage_path("distill"), record.outputs)
        return share_of(right, images), images

    def _outcome(self, record: Pruning, trained: SearchTrained, winner: SearchTrained | None) -> str:
        """Say what came of it, with the epochs of distillation of both."""
        if trained.variant is None:
            reasons = "; ".join(f"{v.id}: {', '.join(v.outside)}" for v in trained.variants)
            return f"{trained.candidate} is outside the budget after its full training: {reasons}"
        own = f"{trained.candidate} reaches {self._reached(record.score, record.epochs, trained, f' ({self.scored_on})', ' in all')}"
        if winner is None or record.against_score is None:
            return f"{own}, and nothing else is within the budget"
        other = f"{winner.candidate} {self._reached(record.against_score, record.against_epochs, winner)}"
        if record.kept:
            return f"{own}, {other}: the pruned network is kept"
        longer = (
            f" (distill.epochs: {record.epochs} trains it for as long)"
            if record.against_epochs == record.epochs
            else ""
        )
        return f"{own}, {other}: pruning does not help, and {winner.candidate} stays{longer}"

    @staticmethod
    def _reached(score: float | None, epochs: int | None, trained: SearchTrained, on: str = "", which: str = "") -> str:
        return f"{percent(score or 0.0)}{on} after {counted(epochs or 0, 'epoch')}{which} at {_p50(trained)}"

    def _full_epochs(self, candidate: Candidate) -> int:
        return self.training.epochs(candidate)

    def _classes(self, candidate: Candidate) -> list[str]:
        return self.training.splits_of(candidate.image_size).classes


def _p50(trained: SearchTrained) -> str:
    variant = next(v for v in trained.variants if v.id == trained.variant)
    p50 = variant.percentiles_ms.get("p50")
    return "an unknown latency" if p50 is None else f"{p50:.3g} ms"


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


__all__ = ["CLOSE", "PruneToBudget", "PruningOutcome", "larger_neighbors", "share_taken"]
