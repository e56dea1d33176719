"""The workload of a bench: the scenario, and what it runs on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, EdgekitError, near
from edgekit.processors import affinity
from edgekit.result import Scenario
from edgekit.targets import every_provider

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
OFFLINE_BATCHES = (1, 2, 4, 8, 16, 32)
_MOST_THREADS, _MOST_STREAMS = 8, 32  # per processor
QUERY = 8  # samples per query of MLPerf's multi-stream scenario


@dataclass(frozen=True)
class Workload:
    """The scenario, and what it runs on.

    Attributes:
        scenario: see `edgekit.bench.scenarios`.
        streams: runs in flight at the same time; 0 leaves it to the runtime. A single stream has 1.
        query: multi-stream: images per query.
        rate: server: queries per second; None if it is searched for.
        bound_ms: server: search for the highest rate whose p99 is under this.
        seed: server: seed of the arrivals.
        provider: the device or library that the runtimes compute with; None is the CPU.
        cpus: the processors that may be used; empty means all.
        loadgen: run under MLCommons LoadGen.

    Raises:
        EdgekitError: the values contradict each other.
    """

    scenario: Scenario = "single-stream"
    streams: int = 1
    query: int = QUERY
    rate: float | None = None
    bound_ms: float | None = None
    seed: int = 0
    provider: str | None = None
    cpus: tuple[int, ...] = ()
    loadgen: bool = False

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise EdgekitError(
                f"unknown scenario {self.scenario}",
                near(self.scenario, SCENARIOS) or f"choose {', '.join(SCENARIOS)}",
            )
        if self.scenario == "single-stream" and self.streams != 1:
            raise EdgekitError(
                f"single-stream runs one batch at a time, not {self.streams or 'several'}",
                "leave out --streams, or use --scenario multi-stream, offline or server",
            )
        if self.scenario == "server" and (self.rate is None) == (self.bound_ms is None):
            raise EdgekitError(
                "the server scenario needs exactly one of --rate or --find-rate",
                "give --rate QUERIES_PER_SECOND, or --find-rate MS to search for the highest rate",
            )
        if self.scenario != "server" and (self.rate is not None or self.bound_ms is not None):
            raise EdgekitError(
                f"--rate and --find-rate are not for the scenario {self.scenario}", "add --scenario server"
            )
        for name, value in (("rate", self.rate), ("bound", self.bound_ms)):
            if value is not None and not 0 < value < float("inf"):
                raise EdgekitError(f"a {name} of {value:g} is not possible", f"give a finite {name} above 0")
        if self.provider is not None and self.provider not in (known := every_provider()):
            raise EdgekitError(
                f"unknown provider {self.provider}", near(self.provider, known) or f"choose {', '.join(known)}"
            )
        if self.cpus:
            _check_cpus(self.cpus)


def check_parallel(threads: int, workload: Workload) -> None:
    """Refuse more threads or streams than this machine can use: thousands would only block it.

    Raises:
        EdgekitError: the message names the option and the largest number.
    """
    processors = os.cpu_count() or 1
    for option, count, per_processor in (
        ("--threads", threads, _MOST_THREADS),
        ("--streams", workload.streams, _MOST_STREAMS),
    ):
        if count > per_processor * processors:
            raise EdgekitError(
                f"{option} {count} is too many: this machine has {processors} processors",
                f"give at most {per_processor * processors}, or 0 to let the runtime decide",
            )


def _check_cpus(cpus: Sequence[int]) -> None:
    usable = affinity()
    if usable is None:
        raise EdgekitError(
            "--cpus is not possible: this system does not let a process choose its processors", "leave out --cpus"
        )
    if absent := sorted(set(cpus) - usable):
        listed = ", ".join(map(str, absent))
        raise EdgekitError(
            f"--cpus: this process may not use processor {listed}", f"choose from {', '.join(map(str, sorted(usable)))}"
        )


def batch_sizes(bundle: Bundle, workload: Workload, requested: Sequence[int]) -> tuple[int, ...]:
    """Return the batch sizes to measure: the requested ones; otherwise the graph's fixed size; otherwise the scenario's default.

    Raises:
        BundleError: the graph does not accept one of them.
        EdgekitError: a query is not a multiple of a batch.
    """
    fixed = bundle.manifest.input.shape[0]
    per_scenario = {
        "multi-stream": (max(1, workload.query // max(1, workload.streams)),),
        "offline": OFFLINE_BATCHES,
    }.get(workload.scenario, (1,))
    sizes = tuple(dict.fromkeys(requested)) or ((fixed,) if fixed else per_scenario)
    if fixed and any(size != fixed for size in sizes):
        raise BundleError(
            f"{bundle.path}: its graphs only take batches of {fixed}, not {', '.join(map(str, sizes))}",
            f"use --batch {fixed}, or export with a free batch axis",
        )
    if workload.loadgen and workload.scenario in ("single-stream", "server") and sizes != (1,):
        raise EdgekitError(
            f"LoadGen's {workload.scenario} queries are single images, not batches of {', '.join(map(str, sizes))}",
            "use --batch 1, or --scenario multi-stream or offline",
        )
    if workload.scenario == "multi-stream" and any(workload.query % size for size in sizes):
        raise EdgekitError(
            f"--query {workload.query} is not a multiple of the batch size ({', '.join(map(str, sizes))})",
            "choose --query as a multiple of --batch",
        )
    return sizes
