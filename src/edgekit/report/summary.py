"""The report's headline as plain data for scripts."""

from __future__ import annotations

from typing import Any

from edgekit.report.headline import p50
from edgekit.report.page import WrittenReport


def summary(written: WrittenReport) -> dict[str, Any]:
    """Return the report's path and size, its headline (accuracies and gain as shares, latency in ms, sizes in bytes), and its gaps."""
    top, metric = written.top, written.facts.task.metric
    return {
        "report": str(written.path),
        "bytes": written.path.stat().st_size,
        f"student_{metric}": top.student.value if top.student else None,
        f"supervised_{metric}": top.supervised.value if top.supervised else None,
        "gain": top.gain,
        "gain_interval": list(top.lead.interval) if top.lead else None,
        "gain_shown": top.lead.shown if top.lead else None,
        "advice": [a.model_dump(mode="json") for a in written.facts.evaluation.advice]
        if written.facts.evaluation
        else [],
        "int8_variant": top.int8.id if top.int8 else None,
        f"int8_{metric}": top.int8.accuracy.value if top.int8 and top.int8.accuracy else None,
        "fastest_variant": top.fastest.latency.variant if top.fastest else None,
        "fastest_p50_ms": p50(top.fastest) if top.fastest else None,
        "size_bytes": top.shipped.bytes if top.shipped else None,
        "missing": [{"part": g.part, "why": g.why, "command": g.command} for g in written.facts.gaps],
    }
