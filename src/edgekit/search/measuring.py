"""The candidates of a search on the device: one process at a time measures, the others wait for its results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from edgekit import claims
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, RemoteError
from edgekit.progress import progress, relayed
from edgekit.search.candidates import Candidate
from edgekit.search.devices import Device
from edgekit.search.measure import TURNS, MeasuredBundle, Turns, in_turns
from edgekit.search.plan import SearchPlan
from edgekit.search.record import Record

_POLL_SECONDS = 1.0


class Measuring:
    """Measures what is not measured yet.

    Args:
        plan: of the search.
        device: what is measured on.
        work: shared with other processes.
        key: digest of what the measurements depend on.
        record: receives them.
        bundle_of: exports a candidate with random weights.
        say: called with lines about the progress.
    """

    def __init__(
        self,
        plan: SearchPlan,
        device: Device,
        work: claims.SharedWork,
        key: str,
        record: Record,
        bundle_of: Callable[[Candidate], Bundle],
        say: Callable[[str], None],
    ) -> None:
        self.plan, self.device, self.work, self.key, self.record = plan, device, work, key, record
        self.bundle_of, self.say = bundle_of, say
        self._by_name = {candidate.name: candidate for candidate in plan.candidates}

    def run(self) -> None:
        """Measure all candidates; one process at a time uses the device, the others wait for its results."""
        kind = self.work.kind(f"edgekit measure {self.key}")
        told = False
        while missing := self._read_measured(kind):
            with self.device_if_free() as free:
                if free:
                    self._here(kind, [self._by_name[name] for name in missing])
                    continue
            if not told:
                self.say(f"another process measures on {self.device.name}: waiting for its results")
                told = True
            time.sleep(_POLL_SECONDS)

    def _read_measured(self, kind: claims.Kind) -> list[str]:
        """Read what has been measured; return the names of the others, without those that failed in this process."""
        done = kind.done()
        for name in self._by_name.keys() & done.keys():
            self.record.measured[name] = MeasuredBundle.from_content(done[name])
        return [name for name in self._by_name if name not in self.record.measured]

    def _here(self, kind: claims.Kind, candidates: Sequence[Candidate]) -> None:
        plan = self.plan
        steps = len(candidates) * (1 + TURNS)
        measured: dict[Turns, tuple[Candidate, float]] = {}
        with self.device, progress("measure", steps, unit="steps") as advance, relayed(lambda text: advance(0, text)):
            for candidate in candidates:
                began = time.monotonic()
                try:
                    bundle = self.bundle_of(candidate)
                except RemoteError:
                    raise
                except EdgekitError as error:
                    advance(1 + TURNS)
                    self.say(f"{candidate.name}: cannot be exported: {error}")
                    self._keep(kind, candidate, MeasuredBundle([], time.monotonic() - began, str(error)))
                    continue
                advance(1, candidate.name)
                turns = Turns(
                    bundle, bundle.path.parent / "turns", self.device, plan.limits, plan.turn_seconds, plan.threads
                )
                measured[turns] = candidate, time.monotonic() - began

            def tell(turns: Turns) -> None:
                advance(1, turns.bundle.manifest.name)
                self._require_energy(turns)
                if turns.complete(TURNS):  # at once, so that another machine has it even if this one dies
                    keep(turns)

            def keep(turns: Turns) -> None:
                candidate, seconds = measured[turns]
                if candidate.name not in self.record.measured:
                    self._keep(kind, candidate, turns.result(seconds))

            in_turns(list(measured), advance=tell, further=TURNS)
            for turns in measured:
                keep(turns)

    def _keep(self, kind: claims.Kind, candidate: Candidate, measured: MeasuredBundle) -> None:
        """Record what was measured; a failure for this process alone, because the next one may have what this one lacked."""
        claim = None if measured.error else kind.claim([candidate.name])
        if claim is not None:
            with claim:
                p50 = min((v.p50 for v in measured.variants if v.p50), default=None)
                claim.finish(measured.content(), None if p50 is None else -p50)
        self.record.measured[candidate.name] = measured

    def _require_energy(self, turns: Turns) -> None:
        """Refuse a budget of energy on a device that does not report it, before everything is measured."""
        why = turns.why_no_energy()
        if why and any(limit.metric == "energy" for limit in self.plan.limits):
            raise EdgekitError(
                f"--budget energy: {self.device.name} reports no energy: {why}",
                "leave this budget out, or see `edgekit doctor` there",
            )

    @contextmanager
    def device_if_free(self) -> Iterator[bool]:
        """Yield whether this process alone may measure on the device, until the block ends."""
        claim = self.work.kind(f"edgekit device {self.device.name}").claim(["device"])
        if claim is None:
            yield False
            return
        with claim:
            yield True

    @contextmanager
    def device_alone(self) -> Iterator[None]:
        """Wait until this process alone may measure on the device."""
        while True:
            with self.device_if_free() as free:
                if free:
                    yield
                    return
            time.sleep(_POLL_SECONDS)
