"""The main numbers at the top of the page, and the rules for choosing them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgekit.bundle import Variant
from edgekit.report.facts import LatencyFacts, ReportFacts
from edgekit.result import Difference, Score
from edgekit.shares import difference


@dataclass(frozen=True)
class Headline:
    """The numbers at the top of the page; None if the run does not have them."""

    student: Score | None  # of anomaly detection: of the detector
    supervised: Score | None
    gain: float | None  # student minus supervised, as a share; with several label draws, their mean
    lead: Difference | None  # the gain with its interval
    band: bool  # whether to show the gain in the chart of accuracies, which are for one label draw
    of_float: float | None  # of the trained model on the bundle's evaluation set
    int8: Variant | None
    fastest: LatencyFacts | None
    shipped: Variant | None  # the fastest variant, or the smallest verified one if nothing was measured
    full: Variant | None  # the largest verified float variant, for comparing the size


def headline(facts: ReportFacts) -> Headline:
    """Choose the headline's numbers.

    The fastest variant is the verified one with the lowest p50 at batch 1 among the complete measurements of the current
    bundle. The INT8 accuracy is that of the fastest verified INT8 variant, or of the most accurate one if none was measured.
    """
    metric = facts.task.metric
    student, supervised = (
        score(facts, "detector" if facts.detects else "student", metric),
        score(facts, "supervised", metric),
    )
    verified = [v for v in facts.bundle.manifest.variants if v.status == "verified"] if facts.bundle else []
    ids = {v.id: v for v in verified}
    ranked = sorted(
        (m for m in measured_here(facts) if m.latency.variant in ids and m.latency.batch == 1 and p50(m) is not None),
        key=lambda m: p50(m) or math.inf,
    )
    fastest = ranked[0] if ranked else None
    int8 = [v for v in verified if v.precision == "int8"]
    timed_int8 = next((ids[m.latency.variant] for m in ranked if ids[m.latency.variant] in int8), None)
    if fastest is not None:
        shipped: Variant | None = ids[fastest.latency.variant]
    else:
        shipped = min(verified, key=lambda v: v.bytes, default=None)
    floats = [v for v in verified if v.precision != "int8"]
    lead = facts.evaluation.difference("student", "supervised") if facts.evaluation else None
    gain = difference(student.value, supervised.value) if student and supervised else None
    return Headline(
        student=student,
        supervised=supervised,
        gain=lead.value if lead is not None and lead.draws > 1 else gain,
        lead=lead,
        band=gain is not None and (lead is None or (lead.shown and lead.draws == 1)),
        of_float=facts.bundle.manifest.accuracy.value if facts.bundle and facts.bundle.manifest.accuracy else None,
        int8=timed_int8 or max(int8, key=lambda v: v.accuracy.value if v.accuracy else -1.0, default=None),
        fastest=fastest,
        shipped=shipped,
        full=max(floats, key=lambda v: v.bytes, default=None),
    )


def score(facts: ReportFacts, model: str, metric: str) -> Score | None:
    """Return one score of the evaluation, or None if it was not measured."""
    scores = facts.evaluation.scores if facts.evaluation else []
    return next((s for s in scores if s.model == model and s.metric == metric), None)


def measured_everywhere(facts: ReportFacts) -> list[LatencyFacts]:
    """Return the latencies that are complete and measure the run's current bundle; of repeated ones, the newest."""
    newest: dict[tuple[str, str, str, int, int, str], LatencyFacts] = {}
    for m in sorted(facts.measured, key=lambda m: m.result.created):
        if m.current and not m.latency.interrupted:
            key = (
                m.device,
                m.latency.variant,
                m.latency.runtime,
                m.latency.threads,
                m.latency.batch,
                m.result.machine.cpu,
            )
            newest[key] = m
    return list(newest.values())


def measured_here(facts: ReportFacts) -> list[LatencyFacts]:
    """Return the latencies for the headline: those of this machine, or if there are none, of the first remote device."""
    every = measured_everywhere(facts)
    first = min((m.device for m in every), default="")
    return [m for m in every if m.device == first]


def p50(measured: LatencyFacts) -> float | None:
    """Return the median latency in milliseconds."""
    return measured.latency.percentiles_ms.get("p50")
