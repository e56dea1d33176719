"""What a search is about: checked before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.data.splits import Splits
from edgekit.errors import ExportError, RunError
from edgekit.export.catalog import plan as variants_of
from edgekit.export.catalog import split
from edgekit.files import digest_of, new_folder
from edgekit.recipe import Recipe
from edgekit.search.budget import Limit
from edgekit.search.candidates import Candidate
from edgekit.search.measure import TURNS, turn_seconds
from edgekit.search.rounds import Halving


@dataclass(frozen=True)
class SearchPlan:
    """A search.

    Attributes:
        recipe: with the user's overrides.
        text: of the recipe's file, for the winner's.
        overrides: key path -> value, which the winner's recipe has, too.
        limits: the budget.
        candidates: to measure.
        targets, precisions: to export for; no precisions: each target's defaults.
        halving: the short rounds.
        seconds: of a turn of measuring; None: as long as the percentiles of the budget need.
        threads: of the inference; 0 leaves it to the runtime.
        max_drop: the largest loss of accuracy by the export, in percentage points.
        most_full: how many candidates are trained in full, at most, if those before turn out to be outside the budget.
        prune: whether a larger network is pruned to the budget where the winner leaves much of it.
    """

    recipe: Recipe
    text: str
    overrides: Mapping[str, Any]
    limits: Sequence[Limit]
    candidates: Sequence[Candidate]
    targets: tuple[str, ...]
    precisions: tuple[str, ...] = ()
    halving: Halving = field(default_factory=Halving)
    seconds: float | None = None
    threads: int = 0
    max_drop: float = 1.0
    most_full: int = 3
    prune: bool = False

    @property
    def turn_seconds(self) -> float:
        """The seconds of a turn."""
        return self.seconds or turn_seconds(self.limits, TURNS)

    def check(self) -> None:
        """Refuse targets that cannot be measured.

        Raises:
            ExportError: a target or precision is unknown, or its time on a computer says nothing.
        """
        for id_ in variants_of(self.targets, self.precisions):
            target, _ = split(id_)
            if not target.runtime.timed:
                raise ExportError(
                    f"--target {target.name}: {target.runtime.title} is for microcontrollers; its time on a computer says nothing of a board's",
                    "leave it out",
                )

    def measuring_key(self, device: str, splits: Splits) -> str:
        """Return what the measurements depend on, as a digest; not the candidate."""
        data = self.recipe.data
        pixels = [data.mean, data.std, data.preprocessing().model_dump(mode="json")]
        budget = [(limit.metric, limit.most) for limit in self.limits]
        return digest_of(
            [
                device,
                self.targets,
                self.precisions,
                self.threads,
                self.turn_seconds,
                budget,
                pixels,
                splits.classes,
                self.recipe.seed,
            ]
        )[:16]

    def training_key(self, splits: Splits) -> str:
        """Return what the trainings depend on, as a digest; not the candidate, nor the paths of the images, which may differ by machine."""
        recipe = self.recipe.model_dump(
            mode="json",
            include={
                "seed": True,
                "pretrain": True,
                "finetune": True,
                "distill": True,
                "data": {"mean", "std", "fit", "interpolation"},
            },
        )
        recipe["distill"].pop("student")
        digests = [getattr(splits, name).digest for name in ("pool", "labeled", "probe", "test")]
        return digest_of([recipe, digests, splits.classes])[:16]

    def full_key(self, device: str, splits: Splits) -> str:
        """Return what the full trainings with their measurements depend on, as a digest."""
        return digest_of([self.measuring_key(device, splits), self.training_key(splits), self.max_drop])[:16]


@contextmanager
def claimed_folder(folder: Path) -> Iterator[None]:
    """Make the folder of a search, or find it; a new one is removed again if the block fails with nothing in it.

    Raises:
        RunError: it is a file, holds something else, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file", "choose another folder with --run")
    with ExitStack() as stack:
        try:
            if folder.is_dir() and any(folder.iterdir()) and not (folder / "candidates").is_dir():
                raise RunError(f"{folder}: is neither empty nor a search", "choose another folder with --run")
            stack.enter_context(new_folder(folder / "candidates"))
        except OSError as error:
            raise RunError(
                f"{folder}: cannot be written: {error.strerror}", "choose another folder with --run"
            ) from error
        yield
