"""The search: measure all candidates on the device, train those within the budget in short rounds, and the best one in full.

    FOLDER/{search.json, search.html, winner.yaml, candidates/NAME/, teacher/, rounds/EPOCHS/NAME/, full/NAME/}

What is done is recorded in a storage that several processes and machines may share (`edgekit.claims`): each part is done by one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from edgekit import claims
from edgekit.bundle import Bundle
from edgekit.data.splits import Splits, load_splits
from edgekit.errors import EdgekitError
from edgekit.files import write_text
from edgekit.locks import locked
from edgekit.progress import progress, relayed
from edgekit.recipe import Architecture
from edgekit.result import Pruning, Search, SearchTrained
from edgekit.run import Run
from edgekit.search.candidates import Candidate
from edgekit.search.devices import Device
from edgekit.search.full import bundle_folder, train_in_full, winner_text
from edgekit.search.measuring import Measuring
from edgekit.search.plan import SearchPlan, claimed_folder
from edgekit.search.pruning import CLOSE, PruneToBudget, PruningOutcome, larger_neighbors, share_taken
from edgekit.search.record import Record
from edgekit.search.rounds import Scored, Training, check_trainable, not_faster, ranked
from edgekit.search.untrained import export_untrained
from edgekit.shares import percent
from edgekit.sizes import ImageSize
from edgekit.text import counted
from edgekit.train.stages.pipeline import Report

WINNER = "winner.yaml"
_POLL_SECONDS = 1.0


def search(
    plan: SearchPlan,
    device: Device,
    folder: Path,
    storage: str | None = None,
    *,
    reuse: Sequence[Run] = (),
    on_change: Callable[[Search], object] = lambda search: None,
    say: Callable[[str], None] = lambda line: None,
) -> Search:
    """Find the student that fits a budget on a device.

    What is complete is not done again, whatever ended the command before: run it again with the same folder or storage.

    Args:
        plan: what to search.
        device: what is measured on.
        folder: receives everything.
        storage: shared with other processes (see `edgekit.claims.open_storage`); None: a file in the folder.
        reuse: runs to copy pretraining and fine-tuning from, if their inputs are the same.
        on_change: called with the results so far after each phase and each training.
        say: called with lines about the progress.

    Returns:
        The results; `winner` is None if nothing is within the budget.

    Raises:
        EdgekitError: of many kinds.
        RemoteError: the device cannot be reached any more.
        KeyboardInterrupt, TrainingInterrupted: after Ctrl-C or a termination signal.
    """
    plan.check()
    with claimed_folder(folder):
        return _Search(plan, device, folder, storage, reuse, on_change, say).run()


class _Search:
    """One process's share of a search."""

    def __init__(
        self,
        plan: SearchPlan,
        device: Device,
        folder: Path,
        storage: str | None,
        reuse: Sequence[Run],
        on_change: Callable[[Search], object],
        say: Callable[[str], None],
    ) -> None:
        self.plan, self.device, self.folder = plan, device, folder
        self.say = say
        self._splits: dict[ImageSize, Splits] = {}
        splits = self.splits(plan.recipe.data.image_size)
        check_trainable(plan.recipe, splits)
        self.training = Training(plan.recipe, folder, self.splits, reuse, self._say_stage)
        self.training.check(plan.candidates)
        self.work = claims.SharedWork(storage or str(folder / "search.db"))
        self.record = Record(plan, device.name, splits)
        self._keys = (
            plan.measuring_key(device.name, splits),
            plan.training_key(splits),
            plan.full_key(device.name, splits),
        )
        self.measuring = Measuring(plan, device, self.work, self._keys[0], self.record, self._bundle, say)
        self._on_change = on_change
        self._by_name = {candidate.name: candidate for candidate in plan.candidates}

    def run(self) -> Search:
        """Do what is to be done, together with the other processes."""
        self.measuring.run()
        self._changed()
        fitting = [c for c in self.plan.candidates if self.record.latency(c.name) is not None]
        if not fitting:
            self._prune()
            return self.record.search()
        latency = {c.name: self.record.latency(c.name) or 0.0 for c in fitting}
        dominated = not_faster(fitting, latency)
        self.record.leave_out(dominated)
        names = [c.name for c in fitting if c.name not in dominated]
        self._teach(names)
        order = self._rounds(names, latency)
        self._full(order)
        self._prune()
        return self.record.search()

    def splits(self, size: ImageSize) -> Splits:
        """Return the images at a resolution."""
        if size not in self._splits:
            self._splits[size] = load_splits(self._at(size).in_recipe(self.plan.recipe).data)
        return self._splits[size]

    def _at(self, size: ImageSize) -> Candidate:
        return Candidate(self.plan.recipe.distill.student, size)

    def _changed(self) -> None:
        self._on_change(self.record.search())

    def _bundle(self, candidate: Candidate) -> Bundle:
        folder = bundle_folder(self.folder, candidate)
        splits = self.splits(candidate.image_size)
        return export_untrained(candidate, self.plan.recipe, splits, folder, self.plan.targets, self.plan.precisions)

    # Training

    def _teach(self, names: Sequence[str]) -> None:
        """Train a teacher for each resolution of these candidates; of processes that share the folder, one trains, and the others wait."""
        lock = self.folder / ".teacher.lock"
        for candidate in {self._by_name[name].image_size: self._by_name[name] for name in names}.values():
            with locked(lock) as free:
                if free:
                    self.training.teach(candidate)
            if not free:
                self.say("another process trains the teacher: waiting for it")
                with locked(lock, wait=True):
                    self.training.teach(candidate)
            self.record.seconds["teacher"] = self.record.seconds.get("teacher", 0.0) + self.training.teacher_seconds(
                candidate
            )

    def _rounds(self, names: list[str], latency: dict[str, float]) -> list[str]:
        """Train in short rounds; return the candidates of the last one, the best first."""
        full = self.training.epochs(self._by_name[names[0]])
        self.record.full_epochs = full
        order = sorted(names, key=lambda name: latency[name])
        kind = self.work.kind(f"edgekit rounds {self._keys[1]}")
        lengths = self.plan.halving.epochs(full)
        for number, epochs in enumerate(lengths):
            scores = self._round(kind, order, epochs, f"round {number + 1} of {len(lengths)}")
            best = ranked(scores, latency)
            if not best:
                raise EdgekitError(
                    f"all candidates failed in {counted(epochs, 'epoch')}; the first: {next(iter(scores.values())).error}",
                    "lower the learning rate of distill.optimizer, or its batch size",
                )
            kept = best if number == len(lengths) - 1 else best[: self.plan.halving.kept(len(order))]
            self.record.rank(best, kept, epochs)
            order = kept
            self._changed()
        return order

    def _round(self, kind: claims.Kind, names: list[str], epochs: int, title: str) -> dict[str, Scored]:
        keys = {f"{name} {epochs} epochs": name for name in names}
        ended = 0

        def make(key: str) -> tuple[dict[str, object], float | None]:
            scored = self.training.short(self._by_name[keys[key]], epochs)
            return asdict(scored), scored.score

        def tell(key: str, result: dict[str, object], here: bool) -> None:
            nonlocal ended
            ended += 1
            scored = Scored(**result)  # type: ignore[arg-type]
            self.record.add_round(keys[key], epochs, scored)
            advance(1, keys[key])
            if here:
                what = scored.error or f"{scored.right}/{scored.images} right"
                self.say(
                    f"{title}, {counted(epochs, 'epoch')}: [{ended}/{len(keys)}] {keys[key]}: {what} ({scored.seconds:.0f} s)"
                )
                self._changed()

        with progress(title, len(keys), unit="candidates") as advance, relayed(lambda text: advance(0, text)):
            claims.share(kind, list(keys), make, tell, self._say_waiting)
        return dict(self.record.scores(epochs, names))

    def _full(self, order: Sequence[str]) -> None:
        """Train the best candidate in full; if it is then outside the budget, the next one."""
        kind = self.work.kind(f"edgekit full {self._keys[2]}")
        for name in order[: self.plan.most_full]:
            candidate = self._by_name[name]

            def make(key: str, candidate: Candidate = candidate) -> tuple[dict[str, object], float | None]:
                bundle = self._bundle(candidate)
                trained = train_in_full(
                    self.plan,
                    candidate,
                    self.training,
                    self.device,
                    self.measuring.device_alone,
                    bundle,
                    self._say_stage,
                )
                return trained.model_dump(mode="json"), trained.accuracy

            done = claims.share(kind, [name], make, on_wait=self._say_waiting)
            trained = SearchTrained.model_validate(done[name])
            self.record.trained.append(trained)
            if trained.variant is not None:
                self.record.win(name, WINNER)
                write_text(self.folder / WINNER, winner_text(self.plan, candidate))
                return
            self.say(f"{name}: after the full training, no variant is within the budget")

    def _prune(self) -> None:
        """Prune a larger network to the budget where the winner leaves much of it, or where there is no winner."""
        if not self.plan.prune:
            return
        winner = self.record.search().won()
        of = self._by_name[winner.candidate] if winner is not None else None
        if winner is not None and (taken := share_taken(self.plan.limits, winner)) >= CLOSE:
            outcome = f"nothing was pruned: {winner.candidate} takes {percent(taken)} of the budget"
            self.record.prune(Pruning(outcome=outcome, against=winner.candidate), None, None, WINNER)
            return
        pruning = PruneToBudget(
            self.plan, self.training, self.device, self.measuring.device_alone, self._bundle, self.record.scored_on, self._say_stage, self.say
        )  # fmt: skip
        neighbors = larger_neighbors(self.plan.candidates, self.record.measured, self.plan.limits, of)
        larger, skipped = pruning.choose(neighbors)
        if larger is None:
            outcome = "nothing was pruned: no candidate outside the budget can be" + "".join(
                f"; {why}" for why in skipped
            )
            self.record.prune(Pruning(outcome=outcome, skipped=skipped), None, None, WINNER)
            return
        self._teach([larger.name])
        self.record.full_epochs = self.training.epochs(larger)

        def make(key: str) -> tuple[dict[str, object], float | None]:
            done = pruning.run(larger, winner, of, skipped)
            return done.content(), done.pruning.score

        kind = self.work.kind(f"edgekit prune {self._keys[2]}")
        key = f"{larger.name} against {of.name if of else 'nothing'}"
        done = PruningOutcome.from_content(claims.share(kind, [key], make, on_wait=self._say_waiting)[key])
        self.record.prune(done.pruning, done.candidate, done.trained, WINNER)
        if done.pruning.kept and done.candidate is not None:
            student = Architecture.model_validate(done.candidate.student)
            kept = Candidate(student, done.candidate.image_size, done.candidate.name)
            write_text(self.folder / WINNER, winner_text(self.plan, kept))
        self._changed()

    def _say_stage(self, report: Report) -> None:
        if report.outcome != "skipped":
            self.say(f"{report.stage}: {report.outcome} ({report.record.seconds:.0f} s)")

    def _say_waiting(self, held_by: dict[str, str]) -> None:
        listed = ", ".join(f"{key} ({host})" for key, host in list(held_by.items())[:3])
        self.say(f"waiting for other processes: {listed}{', …' if len(held_by) > 3 else ''}")
