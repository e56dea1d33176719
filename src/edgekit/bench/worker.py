"""The measuring process: one variant, one batch size, one round. `python -m edgekit.bench.worker REQUEST OUTCOME`.

It is a new process so that leftovers of other variants (spinning threads, memory, caches) do not affect it. It imports almost
nothing before `main`, because imports are timed too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit.bench.request import CANNOT_WRITE, Request
from edgekit.children import end_with_parent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.bench.measure import Timed
    from edgekit.bench.outcome import ProfileOutcome, RoundOutcome
    from edgekit.runtimes import Session


def main() -> None:
    """Measure as the request file says, and write the outcome, or the error, to the outcome file."""
    end_with_parent()
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True

    signal.signal(signal.SIGINT, interrupt)  # the measurement so far is kept
    signal.signal(signal.SIGTERM, interrupt)
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    if request.cpus:
        os.sched_setaffinity(0, request.cpus)  # before any runtime starts a thread, as threads inherit it
    from edgekit.errors import EdgekitError

    try:
        outcome = asdict(_measure(request, lambda: interrupted))
    except EdgekitError as error:
        from edgekit.bench.outcome import WorkerFailure

        outcome = {"error": asdict(WorkerFailure(type(error).__name__, error.message, error.hint))}
    try:
        Path(sys.argv[2]).write_text(json.dumps(outcome))
    except OSError:  # standard error may be on the same disk
        os._exit(CANNOT_WRITE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without teardown: LoadGen's threads may still run after an interruption, and runtimes may hang


def _measure(request: Request, stop: Callable[[], bool]) -> RoundOutcome | ProfileOutcome:
    began = time.perf_counter()
    from edgekit.bundle import Bundle
    from edgekit.runtimes import load
    from edgekit.runtimes.predictor import Predictor  # noqa: F401 - its import is timed too, as predicting needs it
    from edgekit.targets import find_runtime, resolve

    runtime = find_runtime(request.runtime)
    if runtime is not None:
        with suppress(ImportError):  # `load` raises the error
            resolve(runtime.session)
    imported = time.perf_counter()
    bundle = Bundle.open(request.bundle, request.digest)
    variant = bundle.variant(request.variant)
    provider_settings = {"provider": request.provider} if request.provider else {}
    session = load(bundle, variant, threads=request.threads, settings=provider_settings)
    loaded = time.perf_counter()

    import numpy as np

    from edgekit.bench import sensors
    from edgekit.bench.device_memory import device_memory
    from edgekit.bench.golden import prove
    from edgekit.bench.outcome import ProfileOutcome, RoundOutcome
    from edgekit.bench.pipeline import pipeline, transfers
    from edgekit.processors import affinity

    golden = bundle.golden_outputs()
    images: NDArray[np.uint8] = golden["images"]
    _check_batch(session, request)
    batch = np.ascontiguousarray(np.resize(images, (request.batch, *images.shape[1:])))
    first = time.perf_counter()
    session.run(batch)
    first_run = time.perf_counter() - first
    proof = prove(session, variant, golden, request.batch, bundle.task)
    common: dict[str, Any] = {
        "runtime_version": session.version,
        "settings": session.settings,
        "affinity": sorted(affinity() or []),
        "golden": proof,
    }
    if request.scenario == "profile":
        from edgekit.bench.profile import profile

        samples_ns, layers = profile(session, batch, request.runs, stop)
        return ProfileOutcome(**common, samples_ns=samples_ns, layers=layers)

    before = sensors.read()
    scenario_run = _scenario(request, session, images, batch, stop)
    after = sensors.read()
    stages = {
        "import": (imported - began) * 1e3,
        "load": (loaded - imported) * 1e3,
        "first_run": first_run * 1e3,
    }
    if request.stages and not scenario_run.timed.interrupted:
        stages |= transfers(session, batch) | pipeline(session, bundle, batch, stop)
    on_device = bool(runtime and runtime.accelerator) or request.provider not in (None, "cpu")
    return RoundOutcome(
        **{**common, "settings": scenario_run.settings},
        **vars(scenario_run.timed),
        streams=scenario_run.streams,
        stages_ms=stages,
        peak_rss_bytes=sensors.peak_memory(),
        device_memory_bytes=device_memory() if on_device else None,
        conditions=sensors.conditions(before, after),
        loadgen=scenario_run.loadgen,
    )


class _ScenarioRun(NamedTuple):
    """A completed scenario: its times, the number of runs in flight, the runtime's settings, and LoadGen's summary."""

    timed: Timed
    streams: int
    settings: dict[str, str]
    loadgen: dict[str, Any] | None = None


def _scenario(
    request: Request, session: Session, images: NDArray[np.uint8], batch: NDArray[np.uint8], stop: Callable[[], bool]
) -> _ScenarioRun:
    from edgekit.bench import scenarios
    from edgekit.bench.measure import measure
    from edgekit.runtimes.streams import OneByOne, open_streams

    if request.scenario == "single-stream" and not request.loadgen:
        timed = measure(lambda: session.run(batch), request.seconds, request.runs, stop=stop)
        return _ScenarioRun(timed, 1, session.settings)
    single_stream = request.streams == 1
    streams = OneByOne(session) if single_stream else open_streams(session, request.streams, request.batch)
    summary: dict[str, Any] | None = None
    if request.loadgen:
        from edgekit.bench.loadgen import run

        timed, summary = run(request, streams, images, stop)
    elif request.scenario == "multi-stream":
        parts = [batch] * max(1, request.query // request.batch)
        timed = scenarios.multi_stream(streams, parts, request.seconds, request.runs, stop)
    elif request.scenario == "offline":
        timed = scenarios.offline(streams, batch, request.seconds, request.runs, stop)
    else:
        give_up = _too_many_late(request.over_ns, request.over_allowed) if request.over_ns else None
        timed = scenarios.server(
            streams, batch, request.rate, request.seconds, request.runs, request.seed, stop, give_up
        )
    return _ScenarioRun(timed, streams.count, streams.settings, summary)


def _too_many_late(bound_ns: int, allowed: int) -> Callable[[int], bool]:
    """Return a function that counts the latencies over a bound, and returns True once they are more than allowed."""
    over = 0

    def give_up(latency: int) -> bool:
        nonlocal over
        over += latency > bound_ns
        return over > allowed

    return give_up


def _check_batch(session: Session, request: Request) -> None:
    from edgekit.errors import BundleError

    if session.batch not in (None, request.batch):
        raise BundleError(
            f"{request.variant}: its graph only takes batches of {session.batch}, not {request.batch}",
            f"use --batch {session.batch}, or export with a free batch axis",
        )


if __name__ == "__main__":
    main()
