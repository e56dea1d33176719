"""The request to a measuring process: one variant, one batch size, one scenario, one round."""

from __future__ import annotations

from dataclasses import dataclass, field

CANNOT_WRITE = 74  # exit code of a measuring process that cannot write its outcome; EX_IOERR of sysexits.h


@dataclass(frozen=True)
class Request:
    """One measurement to make.

    Attributes:
        bundle: its path.
        variant: its id.
        runtime: the variant's runtime, imported before the bundle is opened so that the import can be timed.
        batch: images per run.
        threads: of the inference; 0 leaves it to the runtime.
        seconds: minimum measuring time.
        runs: minimum number of queries.
        scenario: single-stream, multi-stream, offline, server; or profile, which times every node.
        query: images per query, if not one batch.
        streams: runs in flight at the same time; 0 leaves it to the runtime.
        rate: server: queries per second.
        seed: server: seed of the arrivals.
        over_ns, over_allowed: server: give up when more than `over_allowed` queries took longer than `over_ns`.
        provider: the device or library that the runtime computes with; None is its CPU.
        cpus: the processors that may be used; empty means all.
        loadgen: run under MLCommons LoadGen, which writes its logs into this folder.
        bound_ms: LoadGen's server scenario: the upper bound of p99.
        stages: also time the steps from JPEG bytes to class names.
        digest: SHA-256 of the manifest that the command has opened; None accepts any.
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
    digest: str | None = None
