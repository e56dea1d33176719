"""What a measuring process is asked: one variant, one batch size, one scenario, one round."""

from __future__ import annotations

from dataclasses import dataclass, field

CANNOT_WRITE = 74  # the exit code of a measuring process that cannot write its outcome; EX_IOERR of sysexits.h


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        bundle: its path.
        variant: its id.
        runtime: the variant's, imported before the bundle is opened so that the import can be timed.
        batch: images a run.
        threads: of the inference; 0 leaves it to the runtime.
        seconds: least time of measuring.
        runs: least number of queries.
        scenario: single-stream, multi-stream, offline, server; profile times every node instead.
        query: images a query, where it is not one batch.
        streams: runs in flight at the same time; 0 leaves it to the runtime.
        rate: server: queries a second.
        seed: server: of the arrivals.
        over_ns, over_allowed: server: give up when more than so many queries took longer than that.
        provider: what the runtime is to compute with; None is its CPU.
        cpus: the processors that may be used; empty is all.
        loadgen: run it under MLCommons LoadGen, which writes its logs into this folder.
        bound_ms: LoadGen's server: the latency that p99 is to keep.
        stages: time the way from JPEG bytes to class names, too.
    """

    bundle: str
    variant: str
    runtime: str
    batch: int
    threads: int
    seconds: float
    runs: int
    scenario: str = "single-stream"
    query: int = 0
    streams: int = 1
    rate: float = 0.0
    seed: int = 0
    over_ns: int = 0
    over_allowed: int = 0
    provider: str | None = None
    cpus: list[int] = field(default_factory=list)
    loadgen: str | None = None
    bound_ms: float | None = None
    stages: bool = True
