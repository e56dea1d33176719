"""What a bench asks of every variant: the scenario, and what it runs on."""

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
_MOST_THREADS, _MOST_STREAMS = 8, 32  # a processor
QUERY = 8  # samples a query of MLPerf's multi-stream


@dataclass(frozen=True)
class Workload:
    """The scenario, and what it runs on.

    Attributes:
        scenario: see `edgekit.bench.scenarios`.
        streams: runs in flight at the same time; 0 leaves it to the runtime. A single stream has 1.
        query: multi-stream: images a query.
        rate: server: queries a second; None where it is looked for.
        bound_ms: server: look for the highest rate that keeps p99 under this.
        seed: server: of the arrivals.
        provider: what the runtimes are to compute with; None is the CPU.
        cpus: the processors that may be used; empty is all.
        loadgen: under MLCommons LoadGen.

    Raises:
        EdgekitError: they do not go together.
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
                near(self.scenario, SCENARIOS) or f"one of {', '.join(SCENARIOS)}",
            )
        if self.scenario == "single-stream" and self.streams != 1:
            raise EdgekitError(
                f"single-stream runs one batch at a time, not {self.streams or 'several'}",
                "--scenario multi-stream, offline or server take --streams",
            )
        if self.scenario == "server" and (self.rate is None) == (self.bound_ms is None):
            raise EdgekitError(
                "the server scenario takes a rate or a bound to find one for, one of them",
                "--rate QUERIES_A_SECOND, or --find-rate BOUND_MS",
            )
        if self.scenario != "server" and (self.rate is not None or self.bound_ms is not None):
            raise EdgekitError(f"{self.scenario} has no rate: queries do not arrive there", "add --scenario server")
        for name, value in (("rate", self.rate), ("bound", self.bound_ms)):
            if value is not None and not 0 < value < float("inf"):
                raise EdgekitError(f"a {name} of {value:g} cannot be kept", f"give a {name} above 0")
        if self.provider is not None and self.provider not in (known := every_provider()):
            raise EdgekitError(
                f"unknown provider {self.provider}", near(self.provider, known) or f"one of {', '.join(known)}"
            )
        if self.cpus:
            _check_cpus(self.cpus)


def check_parallel(threads: int, load: Workload) -> None:
    """Refuse more threads or streams than any use could be made of on this machine: thousands would only bring it to a standstill.

    Raises:
        EdgekitError: naming the option, and how many this machine takes.
    """
    processors = os.cpu_count() or 1
    for option, asked, each in (("--threads", threads, _MOST_THREADS), ("--streams", load.streams, _MOST_STREAMS)):
        if asked > each * processors:
            raise EdgekitError(
                f"{option} {asked}: this machine has {processors} processors",
                f"give at most {each * processors}, or 0, which leaves it to the runtime",
            )


def _check_cpus(cpus: Sequence[int]) -> None:
    usable = affinity()
    if usable is None:
        raise EdgekitError("this system does not let a process choose its processors", "leave out --cpus")
    if absent := sorted(set(cpus) - usable):
        listed = ", ".join(map(str, absent))
        raise EdgekitError(
            f"no processor {listed} for this process", f"it may use {', '.join(map(str, sorted(usable)))}"
        )


def batch_sizes(bundle: Bundle, load: Workload, asked: Sequence[int]) -> tuple[int, ...]:
    """The batch sizes to measure: those that were asked for, else the scenario's, else the one that the graph fixes.

    Raises:
        BundleError: the graph does not take one of them.
        EdgekitError: a query is not made of whole batches.
    """
    fixed = bundle.manifest.input.shape[0]
    per_scenario = {
        "multi-stream": (max(1, load.query // max(1, load.streams)),),
        "offline": OFFLINE_BATCHES,
    }.get(load.scenario, (1,))
    sizes = tuple(dict.fromkeys(asked)) or ((fixed,) if fixed else per_scenario)
    if fixed and any(size != fixed for size in sizes):
        raise BundleError(
            f"{bundle.path}: its graphs take batches of {fixed} and no other, not {', '.join(map(str, sizes))}",
            f"--batch {fixed}, or export with a free batch axis",
        )
    if load.loadgen and load.scenario in ("single-stream", "server") and sizes != (1,):
        raise EdgekitError(
            f"LoadGen's queries of a {load.scenario} are single images, not batches of {', '.join(map(str, sizes))}",
            "--batch 1, or --scenario multi-stream or offline",
        )
    if load.scenario == "multi-stream" and any(load.query % size for size in sizes):
        raise EdgekitError(
            f"a query of {load.query} images is not made of whole batches of {', '.join(map(str, sizes))}",
            "choose --query as a multiple of --batch",
        )
    return sizes
