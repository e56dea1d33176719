"""What `edgekit search` measures: candidates, their short trainings, and the winner."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from edgekit.result.part import ResultPart
from edgekit.sizes import LEAST_SIDE, MOST_SIDE, ImageSize, SizeBounds


class SearchVariant(ResultPart):
    """One variant of a candidate of a search, measured with random weights."""

    id: str
    runtime: str
    precision: str
    bytes: int = Field(ge=0)
    percentiles_ms: dict[str, float | None] = Field(
        default_factory=dict,
        description="over the samples of all turns; null where there are too few, empty where it was not measured",
    )
    energy_mj: float | None = Field(None, description="per image; null without a sensor")
    samples: int = 0
    turns: int = Field(0, description="short benches, in turns with the other candidates")
    spread: float | None = Field(None, description="largest median of a turn divided by the smallest, minus 1")
    golden_agreement: float | None = Field(
        None,
        description="share of the golden images on which the device decides as PyTorch does; of random weights partly a matter of chance",
    )
    error: str = Field("", description="why it could not be measured")
    outside: list[str] = Field(
        default_factory=list, description="the limits that it breaks; empty: it is within the budget"
    )

    @property
    def p50(self) -> float | None:
        """Median latency, ms."""
        return self.percentiles_ms.get("p50")


class SearchRound(ResultPart):
    """One short training of a candidate."""

    epochs: int
    score: float | None = Field(
        None, ge=0, le=1, description="see `scored_on` of the search; null if the training failed"
    )
    images: int = Field(0, description="that the score counts")
    seconds: float = 0.0
    error: str = ""


class SearchCandidate(ResultPart):
    """One student of a search."""

    name: str
    student: dict[str, Any] = Field(description="its keys of `distill.student`")
    image_size: Annotated[ImageSize, SizeBounds(LEAST_SIDE, MOST_SIDE)]
    variants: list[SearchVariant] = Field(default_factory=list)
    rounds: list[SearchRound] = Field(default_factory=list, description="short trainings, the shortest first")
    error: str = Field("", description="why it could not be exported or measured")
    left_out: str = Field(
        "", description="why it was not trained further; empty for the winner, and while the search goes on"
    )

    def fitting(self) -> SearchVariant | None:
        """Return the fastest variant within the budget; None if there is none."""
        found = [v for v in self.variants if not v.error and not v.outside and v.p50 is not None]
        return min(found, key=lambda v: v.p50 or 0.0, default=None)

    @property
    def score(self) -> float | None:
        """The score of its longest short training."""
        return next((r.score for r in reversed(self.rounds) if r.score is not None), None)


class TrainedVariant(ResultPart):
    """A variant of a student that was trained in full, measured in turns with the same variant with random weights."""

    id: str
    precision: str
    status: str
    accuracy: float | None = Field(None, description="on the test set")
    bytes: int
    percentiles_ms: dict[str, float | None] = Field(default_factory=dict)
    energy_mj: float | None = None
    before_p50_ms: float | None = Field(None, description="of random weights, in the same turns")
    ratio: float | None = Field(
        None, description="median over the turns of its median latency divided by that of random weights"
    )
    outside: list[str] = Field(default_factory=list, description="the limits that it breaks, or why it was rejected")


class SearchTrained(ResultPart):
    """A candidate that was trained in full."""

    candidate: str
    run: str = Field(description="its run folder, relative to the search's")
    accuracy: float = Field(ge=0, le=1, description="of the student before export, top-1 on the test set")
    teacher_accuracy: float | None = None
    samples: int = Field(description="test images")
    variants: list[TrainedVariant]
    variant: str | None = Field(description="the most accurate one within the budget; null if none is")
    seconds: float


class PrunedStep(ResultPart):
    """One step of pruning: channels are removed, then the network is distilled and measured on the device."""

    removed: float = Field(ge=0, le=1, description="share of the whole network's channels that are gone")
    parameters: int = Field(description="of the encoder")
    epochs: int = Field(description="of the distillation after it")
    score: float | None = Field(None, ge=0, le=1, description="after the distillation; see `scored_on` of the search")
    variants: list[SearchVariant] = Field(default_factory=list)
    seconds: float = Field(0.0, description="of the distillation")


class Pruning(ResultPart):
    """A larger network than the winner, pruned to the budget."""

    candidate: str | None = Field(None, description="the network that was pruned; null if none was")
    against: str | None = Field(None, description="the winner before; null if nothing was within the budget")
    name: str | None = Field(None, description="of the pruned network; null if it could not be made")
    whole_score: float | None = Field(None, ge=0, le=1, description="of the network before pruning")
    steps: list[PrunedStep] = Field(default_factory=list)
    score: float | None = Field(None, ge=0, le=1, description="of the pruned network; see `scored_on` of the search")
    against_score: float | None = Field(None, ge=0, le=1, description="of `against`, after `against_epochs`")
    epochs: int | None = Field(None, description="of the pruned network's distillations, in all")
    against_epochs: int | None = Field(
        None,
        description="of distillation: those of its full training, or `epochs` where the pruned network was better than after those",
    )
    images: int = Field(0, description="that the scores count")
    kept: bool = Field(False, description="whether it is the winner now")
    outcome: str = Field(description="what came of it, in words")
    skipped: list[str] = Field(default_factory=list, description="networks that cannot be pruned, with the reason")
    seconds: float = 0.0


class Search(ResultPart):
    """A search for the student that fits a budget on a device."""

    kind: Literal["search"] = "search"
    recipe: str = Field(description="its name")
    device: str
    device_machine: str = Field("", description="its processor")
    threads: int = 0
    budgets: list[str]
    candidates: list[SearchCandidate]
    scored_on: str = Field(description="what the short rounds are scored on")
    full_epochs: int | None = None
    trained: list[SearchTrained] = Field(
        default_factory=list, description="in full, in the order in which they were tried"
    )
    pruning: Pruning | None = Field(None, description="with --prune: a larger network, pruned to the budget")
    winner: str | None = Field(None, description="the candidate's name; null if there is none, or not yet")
    winner_recipe: str | None = Field(None, description="file of its recipe, relative to the search's folder")
    nearest: str = Field("", description="if nothing is within the budget: what comes nearest, with its numbers")
    seconds: dict[str, float] = Field(
        default_factory=dict,
        description="the cost by phase: measure, teacher, rounds, full, pruning; of all machines and sessions",
    )

    def candidate(self, name: str) -> SearchCandidate | None:
        """Return a candidate by its name, or None."""
        return next((c for c in self.candidates if c.name == name), None)

    def won(self) -> SearchTrained | None:
        """Return the full training of the winner, or None."""
        return next((t for t in self.trained if t.candidate == self.winner), None)
